//! `header`: kvq-capi/include/kvq.h, written from the sources of kvq-capi.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use cbindgen::{Builder, Config};

use crate::tool::root;

/// The files of kvq-capi with something to declare, in the order of the header.
const SOURCES: [&str; 4] = ["status", "config", "handle", "call"];

pub fn run() -> Result<()> {
    let path = path();
    fs::write(&path, generate()?).with_context(|| format!("writing {}", path.display()))?;
    println!("{}", path.display());
    Ok(())
}

/// Whether the committed header is what the sources say.
///
/// # Errors
/// When it is not, with the command that writes it.
pub fn check() -> Result<()> {
    let path = path();
    let committed = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    if committed != generate()? {
        bail!("{} is not what kvq-capi/src declares: cargo xtask header", path.display());
    }
    Ok(())
}

/// The folder of the header.
pub fn folder() -> PathBuf {
    root().join("kvq-capi/include")
}

fn path() -> PathBuf {
    folder().join("kvq.h")
}

fn generate() -> Result<String> {
    let capi = root().join("kvq-capi");
    let config = Config::from_file(capi.join("cbindgen.toml")).map_err(|error| anyhow!(error))?;
    let mut builder = Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(capi.join("src").join(source).with_extension("rs"));
    }
    let mut header = Vec::new();
    builder.generate().context("the header of kvq-capi")?.write(&mut header);
    Ok(String::from_utf8(header)?)
}

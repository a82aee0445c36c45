//! `fuzz`: each fuzz target of the codec for some seconds, from its committed corpus.
//!
//! Not a part of `test`, since it needs nightly Rust and cargo-fuzz; `cargo test` replays the corpora without either.

use anyhow::{Result, bail};

use crate::tool::{cargo, render, root, run as run_tool, succeeds};

const INSTALL: &str = "rustup toolchain install nightly && cargo install cargo-fuzz --locked";

const TARGETS: [&str; 4] = ["restore", "dequantize", "operations", "backends"];

#[derive(clap::Args)]
pub struct Args {
    /// How long each target runs.
    #[arg(long, default_value_t = 30)]
    seconds: u32,
}

pub fn run(args: &Args) -> Result<()> {
    if !succeeds(cargo().args(["+nightly", "fuzz", "--version"])) {
        bail!("cargo-fuzz with nightly Rust was not found: {INSTALL}");
    }
    for target in TARGETS {
        let mut fuzz = cargo();
        // The flags of .cargo/config.toml are not those of a sanitizer's build.
        fuzz.current_dir(root().join("kvq-codec")).env("RUSTFLAGS", "");
        let corpora = ["corpus", "regressions"].map(|folder| format!("fuzz/{folder}/{target}"));
        std::fs::create_dir_all(root().join("kvq-codec").join(&corpora[0]))?;
        fuzz.args(["+nightly", "fuzz", "run", target]).args(corpora);
        fuzz.args(["--", &format!("-max_total_time={}", args.seconds)]);
        println!("$ {}", render(&fuzz));
        run_tool(&mut fuzz, INSTALL)?;
    }
    Ok(())
}

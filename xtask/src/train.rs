//! `train`: the built-in model, by `xtask/train/train.py`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::tool::{python, run as run_tool, succeeds};

const INSTALL_PYTHON: &str = "install Python 3 (3.10 or newer), or name an interpreter in $PYTHON";
const MODULES: [&str; 4] = ["torch", "tokenizers", "safetensors", "numpy"];

#[derive(clap::Args)]
pub struct Args {
    /// Training text, UTF-8; the built-in model read TinyStories.
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Wall-clock limit of the training; every schedule follows it.
    #[arg(long, default_value_t = 40.0)]
    minutes: f64,
    /// Folder for the trained model.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    let text = args.text.canonicalize().with_context(|| format!("--text {}", args.text.display()))?;
    let out = std::path::absolute(&args.out).with_context(|| format!("--out {}", args.out.display()))?;
    run_tool(python().args(["-c", "import sys; sys.exit(sys.version_info < (3, 10))"]), INSTALL_PYTHON)?;
    let missing: Vec<_> = MODULES
        .into_iter()
        .filter(|module| !succeeds(python().args(["-c", &format!("import {module}")])))
        .collect();
    if !missing.is_empty() {
        bail!(
            "{} cannot import {}: `{0} -m pip install {}` (or name another interpreter in $PYTHON)",
            python().get_program().to_string_lossy(),
            missing.join(", "),
            missing.join(" ")
        );
    }
    let mut train = python();
    train.arg("xtask/train/train.py").arg("--text").arg(text).arg("--out").arg(out);
    train.arg("--minutes").arg(args.minutes.to_string());
    run_tool(&mut train, INSTALL_PYTHON)
}

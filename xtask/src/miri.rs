//! `miri`: the codec's tests in an interpreter that finds undefined behaviour, little- and big-endian.
//!
//! Not a part of `test`, since it needs nightly Rust and takes minutes. Tests that would take hours choose smaller
//! shapes and fewer repetitions under `cfg!(miri)`; none is left out.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::tool::{cargo, render, run as run_tool, succeeds};

const INSTALL: &str = "rustup toolchain install nightly --component miri,rust-src";

/// A machine with the other order of bytes.
const BIG_ENDIAN: &str = "s390x-unknown-linux-gnu";

pub fn run() -> Result<()> {
    if !succeeds(cargo().args(["+nightly", "miri", "--version"])) {
        bail!("nightly Rust with Miri was not found: {INSTALL}");
    }
    for target in [None, Some(BIG_ENDIAN)] {
        let begun = Instant::now();
        let mut miri = cargo();
        miri.args(["+nightly", "miri", "test", "-p", "kvq-codec", "--features", "std"]);
        if let Some(target) = target {
            miri.args(["--target", target]);
        }
        // Golden files and corpora are read from disk.
        miri.env("MIRIFLAGS", "-Zmiri-disable-isolation");
        println!("$ {}", render(&miri));
        run_tool(&mut miri, INSTALL)?;
        let name = target.unwrap_or("this machine");
        println!("{name}: {:.0} s", begun.elapsed().as_secs_f64());
    }
    Ok(())
}

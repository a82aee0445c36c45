//! `msrv`: what is published, checked with the oldest Rust that it promises to build with.
//!
//! Not a part of `test`, since it needs that toolchain and compiles the dependencies a second time.

use anyhow::{Result, bail};

use crate::tool::{cargo, render, run as run_tool, succeeds};

/// `rust-version` of the workspace.
const VERSION: &str = env!("CARGO_PKG_RUST_VERSION");

pub fn run() -> Result<()> {
    let (toolchain, install) =
        (format!("+{VERSION}"), format!("rustup toolchain install {VERSION} --profile minimal"));
    if !succeeds(cargo().args([&toolchain, "--version"])) {
        bail!("Rust {VERSION} was not found: {install}");
    }
    let mut check = cargo();
    check.args([&toolchain, "check", "--locked", "--target-dir", "target/msrv"]);
    check.args(["-p", "kvq-codec", "-p", "kvq-tiny", "-p", "kvq-capi", "-p", "kvq-host"]);
    println!("$ {}", render(&check));
    run_tool(&mut check, &install)
}

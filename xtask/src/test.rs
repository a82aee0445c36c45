//! `test`: everything that must hold before a change is merged, as counted steps.
//!
//! Each step is announced with its command and ends with its time. A failed step does not stop the
//! others. Nothing is skipped: a missing tool fails its step and names the way to install it. The
//! last line counts steps: `N passed, N failed`.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::aarch64;
use crate::bench;
use crate::book;
use crate::commands;
use crate::fetch_model;
use crate::header;
use crate::no_panic;
use crate::qemu;
use crate::setup::{self, THUMB_TARGETS, ensure_aarch64_target, require_qemu_aarch64};
use crate::tool::{capture, cargo, python, render, root, run as run_tool};

const INSTALL_CARGO: &str = "install Rust from https://rustup.rs";

const INSTALL_PYTHON: &str = "install Python 3 (Debian: apt-get install python3), or set PYTHON to it";

/// The program that measures stock candle, a workspace of its own. Compiling candle once more would take minutes, so only
/// its format is checked.
const CANDLE_PEER: &str = "benches/peers/candle/Cargo.toml";

/// What the README's first command must print: its reference row and its best-known preset.
const SMOKE_WORDS: [&str; 2] = ["dense-f32", "4x"];

#[derive(clap::Args)]
pub struct Args {
    /// Run the tests that take minutes and a real model instead, which is fetched where it is not here.
    #[arg(long)]
    slow: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let mut tally = Tally::default();
    if args.slow {
        slow(&mut tally);
        return tally.finish();
    }
    tally.step("what the checks need is installed (cargo xtask setup)", setup::run);
    tally.cargo(&["fmt", "--all", "--check"], &[]);
    tally.cargo(&["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"], &[]);
    for target in THUMB_TARGETS {
        tally.cargo(&["build", "--release", "-p", "kvq-codec", "--target", target], &[]);
        tally.step(&format!("no entry of the codec can panic on {target}"), || no_panic::check(target));
    }
    for manifest in [no_panic::manifest(), root().join(CANDLE_PEER)] {
        let mut format = cargo();
        format.args(["fmt", "--check", "--manifest-path"]).arg(manifest);
        tally.step(&render(&format), || run_tool(&mut format, INSTALL_CARGO));
    }
    tally.cargo(&["test", "--release", "-p", "kvq-codec", "--features", "std"], &[]);
    // The examples of the documentation assume the default features.
    tally.cargo(
        &[
            "test",
            "--release",
            "-p",
            "kvq-codec",
            "--no-default-features",
            "--features",
            "std",
            "--lib",
            "--tests",
        ],
        &[],
    );
    let backends: &[&str] = if cfg!(target_arch = "x86_64") { &["scalar", "avx2"] } else { &["scalar"] };
    for backend in backends {
        let target_dir = format!("target/force-{backend}");
        tally.cargo(
            &["test", "--release", "-p", "kvq-codec", "--features", "std", "--target-dir", &target_dir],
            &[("RUSTFLAGS", &force_flags(backend))],
        );
    }
    emulated_aarch64(&mut tally);
    tally.step("kvq-capi/include/kvq.h is what its sources declare", header::check);
    tally.step("docs/read_snapshot.py reads a golden snapshot as the codec does", snapshot_reader);
    // Apart: a dependency of xtask has serde_json keep numbers as text, which the host's readers do not expect.
    tally.cargo(&["test", "--release", "--workspace", "--exclude", "xtask"], &[]);
    tally.cargo(&["test", "--release", "-p", "xtask"], &[]);
    let mut benches = bench::verify();
    tally.step(&render(&benches), || run_tool(&mut benches, INSTALL_CARGO));
    for example in ["encode_block", "fixed_cache", "elastic"] {
        tally.cargo(&["run", "--release", "-p", "kvq-codec", "--features", "std", "--example", example], &[]);
    }
    for example in ["swap_cache", "fused_attention", "save_restore"] {
        tally.cargo(&["run", "--release", "-p", "kvq-host", "--example", example], &[]);
    }
    tally.cargo(
        &["doc", "--release", "--no-deps", "-p", "kvq-codec", "-p", "kvq-tiny", "-p", "kvq-host"],
        &[("RUSTDOCFLAGS", "-Dwarnings")],
    );
    tally.step("cargo xtask book", book::run);
    tally.step("the commands of the documents are run here, or understood", commands::check);
    firmware(&mut tally);
    let mut smoke = cargo();
    smoke.args(["run", "--release"]);
    tally.step(&render(&smoke), || first_command(&mut smoke));
    tally.finish()
}

/// Tests of the host that are ignored elsewhere and named `slow_…`, with what they print.
fn slow(tally: &mut Tally) {
    tally.step("cargo xtask fetch-model smollm2-135m", || fetch_model::run(&fetch_model::Args::smollm2()));
    tally.cargo(
        &[
            "test",
            "--release",
            "-p",
            "kvq-host",
            "--test",
            "field_cases",
            "slow_",
            "--",
            "--ignored",
            "--nocapture",
        ],
        &[],
    );
}

/// The codec's lints and tests for aarch64, whose programs an emulator runs.
fn emulated_aarch64(tally: &mut Tally) {
    let mut lint = aarch64::lint();
    tally.step(&render(&lint), || {
        ensure_aarch64_target()?;
        run_tool(&mut lint, INSTALL_CARGO)
    });
    let mut test = aarch64::test();
    tally.step(&render(&test), || {
        require_qemu_aarch64()?;
        run_tool(&mut test, INSTALL_CARGO)
    });
}

/// The firmware's own workspace: format, lints, and its programs on every emulated board.
fn firmware(tally: &mut Tally) {
    let manifest = qemu::manifest();
    let mut format = cargo();
    format.args(["fmt", "--all", "--check", "--manifest-path"]).arg(&manifest);
    tally.step(&render(&format), || run_tool(&mut format, INSTALL_CARGO));
    tally.step("lints of the firmware", qemu::lint);
    for board in &qemu::BOARDS {
        let name = format!("cargo xtask qemu --board {}", board.name);
        tally.step(&name, || qemu::check_board(board));
    }
}

/// `RUSTFLAGS` replaces the flags of .cargo/config.toml, so those are repeated.
fn force_flags(backend: &str) -> String {
    let cpu = if cfg!(target_arch = "x86_64") { "-C target-cpu=x86-64-v3 " } else { "" };
    format!("{cpu}--cfg kvq_force_{backend}")
}

/// The comparison is a test of the codec that is ignored elsewhere, because it needs Python.
fn snapshot_reader() -> Result<()> {
    capture(python().arg("--version"), INSTALL_PYTHON)?;
    let mut test = cargo();
    test.args(["test", "--release", "-p", "kvq-codec", "--features", "std", "--lib", "--"]);
    let output = capture(test.args(["--ignored", "the_reader_in_docs"]), INSTALL_CARGO)?;
    print!("{output}");
    if !output.contains("1 passed") {
        bail!("the comparison did not run");
    }
    Ok(())
}

fn first_command(smoke: &mut Command) -> Result<()> {
    let stdout = capture(smoke, INSTALL_CARGO)?;
    print!("{stdout}");
    for word in SMOKE_WORDS {
        if !stdout.contains(word) {
            bail!("the output lacks `{word}`");
        }
    }
    Ok(())
}

#[derive(Default)]
struct Tally {
    passed: usize,
    failures: Vec<String>,
}

impl Tally {
    fn cargo(&mut self, args: &[&str], variables: &[(&str, &str)]) {
        let mut cargo = cargo();
        cargo.args(args).envs(variables.iter().copied());
        self.step(&render(&cargo), || run_tool(&mut cargo, INSTALL_CARGO));
    }

    fn step(&mut self, name: &str, body: impl FnOnce() -> Result<()>) {
        println!("\n==> {name}");
        let begun = Instant::now();
        let outcome = body();
        let seconds = begun.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("<== ok, {seconds:.1} s");
            }
            Err(error) => {
                println!("<== FAILED, {seconds:.1} s: {error:#}");
                self.failures.push(name.to_owned());
            }
        }
    }

    fn finish(self) -> Result<()> {
        println!();
        for name in &self.failures {
            println!("failed: {name}");
        }
        println!("{} passed, {} failed", self.passed, self.failures.len());
        if self.failures.is_empty() { Ok(()) } else { std::process::exit(1) }
    }
}

//! `miri`: the codec's tests in an interpreter that finds undefined behaviour, little- and big-endian at the same time.
//!
//! Not a part of `test`, since it needs nightly Rust and many minutes: a call that adds one token takes a tenth of a
//! second and more. Tests choose smaller shapes and fewer repetitions under `cfg!(miri)`. Left out are doc tests, and
//! tests of budgets, tiers and evictions that show nothing with few tokens: they are ignored there with the reason, and
//! reach no unsafe code that others do not.
//!
//! This machine's run has all checks. The other one's purpose is the order of bytes: unsafe code is compiled for
//! little-endian machines only. So it goes without the model of aliasing and the checks of values, neither of which safe
//! code can break, and functions are inlined. Both make it faster.

use std::io::{BufRead, BufReader, pipe};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::tool::{cargo, render, root, run as run_tool, succeeds};

const INSTALL: &str = "rustup toolchain install nightly --component miri,rust-src";

/// A machine on which the suite is interpreted.
struct Target {
    /// What its lines of output begin with.
    name: &'static str,
    /// `None`: this machine.
    triple: Option<&'static str>,
    flags: &'static str,
}

/// Golden files and corpora are read from disk, so neither is isolated.
const TARGETS: [Target; 2] = [
    Target { name: "this machine", triple: None, flags: "-Zmiri-disable-isolation" },
    Target {
        name: "big-endian",
        triple: Some("s390x-unknown-linux-gnu"),
        flags: "-Zmiri-disable-isolation -Zmiri-disable-stacked-borrows \
                -Zmiri-disable-validation -Zmir-opt-level=4 -Zinline-mir-threshold=500 -Zinline-mir-hint-threshold=500",
    },
];

impl Target {
    fn command(&self, verb: &str) -> Command {
        let mut miri = cargo();
        miri.args(["+nightly", "miri", verb]);
        if let Some(triple) = self.triple {
            miri.args(["--target", triple]);
        }
        // A folder each: cargo lets one build at a time into a folder.
        miri.env("CARGO_TARGET_DIR", target_dir().join(self.triple.unwrap_or("host")));
        miri
    }

    /// Runs the suite to its end and prints each line as it comes, behind the name.
    fn test(&self) -> Result<()> {
        let begun = Instant::now();
        let mut test = self.command("test");
        test.args(["-p", "kvq-codec", "--features", "std", "--lib", "--tests", "--no-fail-fast"])
            .env("MIRIFLAGS", self.flags);
        let what = render(&test);
        println!("$ {what}");
        let (reader, writer) = pipe()?;
        test.stdout(writer.try_clone()?).stderr(writer);
        let mut child = test.spawn().with_context(|| format!("starting `{what}`"))?;
        // The writing ends that the command holds would keep the reading one open.
        drop(test);
        for line in BufReader::new(reader).lines() {
            println!("{}: {}", self.name, line?);
        }
        let status = child.wait()?;
        println!("{}: {:.0} s", self.name, begun.elapsed().as_secs_f64());
        if !status.success() {
            bail!("`{what}` ended with {status}");
        }
        Ok(())
    }
}

/// Beside other outputs if `CARGO_TARGET_DIR` says where those are.
fn target_dir() -> PathBuf {
    let shared = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root().join(shared).join("miri")
}

pub fn run() -> Result<()> {
    if !succeeds(cargo().args(["+nightly", "miri", "--version"])) {
        bail!("nightly Rust with Miri was not found: {INSTALL}");
    }
    // The standard libraries come first: both lie in one folder.
    for target in &TARGETS {
        run_tool(&mut target.command("setup"), INSTALL)?;
    }
    let outcomes = thread::scope(|scope| {
        let runs = TARGETS.each_ref().map(|target| scope.spawn(|| target.test()));
        runs.map(|run| run.join().expect("a run does not panic"))
    });
    let failures: Vec<String> =
        outcomes.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    if !failures.is_empty() {
        bail!("{}", failures.join("; "));
    }
    Ok(())
}

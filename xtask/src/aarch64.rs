//! The codec on an emulated aarch64: its golden files prove the same bytes there, its unit tests that NEON
//! kernels return the integers of the portable code.

use std::process::Command;

use crate::setup::{AARCH64_TARGET, QEMU_AARCH64};
use crate::tool::cargo;

/// What runs under emulation: the binaries that read golden files (of snapshots in a unit test), compare
/// backends, or attend in every shape. The others repeat what holds on every machine, and tests/snapshot.rs alone takes over
/// two minutes here.
const TESTS: [&str; 5] = ["--lib", "--test", "golden", "--test", "field_cases"];

/// The codec's lints for the target.
pub fn lint() -> Command {
    let mut lint = cargo_for_target("clippy");
    lint.args(["--all-targets", "--", "-D", "warnings"]);
    lint
}

/// The tests that run under emulation.
pub fn test() -> Command {
    let mut test = cargo_for_target("test");
    test.args(TESTS);
    test
}

/// A verb of cargo for the codec on the target. `RUSTFLAGS` of the environment are dropped: they would name
/// features of this machine's CPU. Those of .cargo/config.toml are for x86-64 alone.
fn cargo_for_target(verb: &str) -> Command {
    let mut cargo = cargo();
    cargo.args([verb, "--release", "-p", "kvq-codec", "--features", "std", "--target", AARCH64_TARGET]);
    let prefix = format!("CARGO_TARGET_{}", AARCH64_TARGET.to_uppercase().replace('-', "_"));
    cargo.env(format!("{prefix}_LINKER"), "rust-lld").env(format!("{prefix}_RUNNER"), QEMU_AARCH64);
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo
}

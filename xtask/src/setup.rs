//! `setup`: the Rust targets, the emulators, the C compiler and mdBook, which the checks need.
//!
//! Only what is missing is installed. What cannot be installed from here is an error that holds
//! the command to type.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::tool::{capture, cargo, command, root, run as run_tool, succeeds};

/// The firmware targets: Cortex-M0, M3, M4F and M7, M33 and M55.
pub const THUMB_TARGETS: [&str; 4] =
    ["thumbv6m-none-eabi", "thumbv7m-none-eabi", "thumbv7em-none-eabihf", "thumbv8m.main-none-eabihf"];

/// Where the NEON kernels are tested: Linux, so that the emulator needs no machine, with a C library that
/// Rust brings along, so that linking needs no cross compiler.
pub const AARCH64_TARGET: &str = "aarch64-unknown-linux-musl";

const INSTALL_RUST: &str = "install Rust from https://rustup.rs";
/// The emulator of Arm boards; its package has the same name.
pub const QEMU: &str = "qemu-system-arm";
/// The C compiler of the firmware program in C.
pub const GCC: &str = "arm-none-eabi-gcc";
const GCC_PACKAGE: &str = "gcc-arm-none-eabi";
/// The emulator of programs for Linux on aarch64.
pub const QEMU_AARCH64: &str = "qemu-aarch64";
const QEMU_AARCH64_PACKAGE: &str = "qemu-user";
/// How mdBook comes here: without the parts that serve a book, and unoptimised, which takes two minutes of a core, not four.
pub const INSTALL_MDBOOK: &str = "CARGO_PROFILE_RELEASE_OPT_LEVEL=0 cargo install mdbook --locked --no-default-features --root target/tools";

pub fn run() -> Result<()> {
    ensure_thumb_targets()?;
    ensure_aarch64_target()?;
    ensure(QEMU, QEMU)?;
    ensure(QEMU_AARCH64, QEMU_AARCH64_PACKAGE)?;
    ensure(GCC, GCC_PACKAGE)?;
    ensure_mdbook()
}

/// Adds the firmware targets that the active toolchain lacks.
///
/// # Errors
/// When a target is missing and rustup is too, or cannot add it.
pub fn ensure_thumb_targets() -> Result<()> {
    ensure_targets(&THUMB_TARGETS)
}

/// Adds the target of the NEON kernels, if the active toolchain lacks it.
///
/// # Errors
/// As [`ensure_thumb_targets`].
pub fn ensure_aarch64_target() -> Result<()> {
    ensure_targets(&[AARCH64_TARGET])
}

fn ensure_targets(targets: &[&str]) -> Result<()> {
    let mut missing = Vec::new();
    for &target in targets {
        if has_target(target)? {
            println!("target {target}: present");
        } else {
            missing.push(target);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("rustup target add {}", missing.join(" "));
    println!("$ {by_hand}");
    let mut rustup = command("rustup");
    rustup.args(["target", "add"]).args(&missing);
    let no_rustup = format!(
        "{INSTALL_RUST}, then `{by_hand}`; a toolchain without rustup needs the core library of these targets \
         from its own source of packages"
    );
    run_tool(&mut rustup, &no_rustup)?;
    for target in missing {
        if !has_target(target)? {
            bail!(
                "the core library of {target} is still missing after `{by_hand}`: is `rustc` rustup's, of the \
                 active toolchain?"
            );
        }
    }
    Ok(())
}

/// Asks the compiler itself, so that it also holds for toolchains that rustup does not know.
fn has_target(target: &str) -> Result<bool> {
    let mut rustc = command("rustc");
    rustc.args(["--print", "target-libdir", "--target", target]);
    let folder = capture(&mut rustc, INSTALL_RUST)?;
    Ok(Path::new(folder.trim()).is_dir())
}

/// mdBook: the one under `target/tools`, else the one on the path.
///
/// # Errors
/// With the command that installs it, if there is neither.
pub fn mdbook() -> Result<PathBuf> {
    let own = root().join("target/tools/bin/mdbook");
    let found = [own, "mdbook".into()].into_iter().find(|path| succeeds(command(path).arg("--version")));
    let Some(found) = found else {
        bail!("mdbook was not found: cargo xtask setup, or {INSTALL_MDBOOK}");
    };
    Ok(found)
}

fn ensure_mdbook() -> Result<()> {
    if mdbook().is_ok() {
        println!("mdbook: present");
        return Ok(());
    }
    println!("$ {INSTALL_MDBOOK}");
    let mut install = cargo();
    install.args(["install", "mdbook", "--locked", "--no-default-features", "--root", "target/tools"]);
    run_tool(install.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"), INSTALL_RUST)
}

/// Whether the emulator of boards is there.
///
/// # Errors
/// With the command that installs it, if it is not.
pub fn require_qemu() -> Result<()> {
    require(QEMU, QEMU)
}

/// Whether the C compiler is there.
///
/// # Errors
/// With the command that installs it, if it is not.
pub fn require_gcc() -> Result<()> {
    require(GCC, GCC_PACKAGE)
}

/// Whether the emulator of aarch64 programs is there.
///
/// # Errors
/// With the command that installs it, if it is not.
pub fn require_qemu_aarch64() -> Result<()> {
    require(QEMU_AARCH64, QEMU_AARCH64_PACKAGE)
}

fn require(program: &str, package: &str) -> Result<()> {
    if succeeds(command(program).arg("--version")) {
        return Ok(());
    }
    bail!("{program} was not found: cargo xtask setup, or sudo apt-get install -y {package}")
}

fn ensure(program: &str, package: &str) -> Result<()> {
    if succeeds(command(program).arg("--version")) {
        println!("{program}: present");
        return Ok(());
    }
    let is_root =
        capture(command("id").arg("-u"), "it is part of every Unix").is_ok_and(|id| id.trim() == "0");
    if !succeeds(command("apt-get").arg("--version")) {
        bail!("{program} was not found and neither was apt-get: install it with your package manager");
    }
    if !is_root {
        bail!("{program} was not found: sudo apt-get install -y {package}");
    }
    println!("$ apt-get update && apt-get install -y {package}");
    run_tool(command("apt-get").args(["update", "-q"]), "it was just here")?;
    run_tool(command("apt-get").args(["install", "-q", "-y", package]), "it was just here")
}

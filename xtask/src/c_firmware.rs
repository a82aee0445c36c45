//! The C program of `firmware-example/c`: the codec's static library, the header and arm-none-eabi-gcc.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::tool::{capture, cargo, command, render, root, run as run_tool};
use crate::{header, no_panic, setup};

const INSTALL_CARGO: &str = "install Rust from https://rustup.rs";

/// The profile of the workspace that the library is built with.
pub const PROFILE: &str = "capi";

/// Builds `firmware-example/c/<name>.c` below `target_dir` and returns where the program is.
///
/// `compiler_flags` are those of the board's core. The library is looked through for panics on the way.
///
/// # Errors
/// A header that is not the sources', a missing compiler, a failed build, or a panic that a call can reach.
pub fn build(
    name: &str,
    memory_x: &Path,
    rust_target: &str,
    compiler_flags: &[&str],
    target_dir: &Path,
) -> Result<PathBuf> {
    setup::require_gcc()?;
    header::check()?;
    let library = build_library(rust_target, target_dir)?;
    let reached = no_panic::check_archive(&library)?;
    println!("{}: {reached} sections reached, no panic", library.display());
    let folder = target_dir.join("c");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    write_expected(&folder.join("expected.h"), target_dir)?;
    let source = root().join("firmware-example/c");
    let elf = folder.join(name);
    let mut gcc = command(setup::GCC);
    gcc.args(compiler_flags);
    gcc.args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-ffunction-sections"]);
    gcc.arg("-I").arg(header::folder()).arg("-I").arg(&folder);
    gcc.arg(source.join("startup.c")).arg(source.join(name).with_extension("c")).arg(&library);
    // No C library: the codec's brings what compilers call for themselves.
    gcc.args(["-nostdlib", "-Wl,--gc-sections", "-Wl,-z,noexecstack", "-T"]).arg(memory_x);
    gcc.arg("-T").arg(source.join("link.ld")).arg("-o").arg(&elf);
    println!("$ {}", render(&gcc));
    run_tool(&mut gcc, "it was just here")?;
    Ok(elf)
}

fn build_library(rust_target: &str, target_dir: &Path) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["rustc", "--quiet", "--profile", PROFILE, "-p", "kvq-capi", "--crate-type", "staticlib"]);
    build.args(["--target", rust_target]).env("CARGO_TARGET_DIR", target_dir);
    println!("$ {}", render(&build));
    run_tool(&mut build, INSTALL_CARGO)?;
    Ok(target_dir.join(rust_target).join(PROFILE).join("libkvq_capi.a"))
}

/// Has this host make the program's calls, and writes what comes out.
fn write_expected(path: &Path, target_dir: &Path) -> Result<()> {
    let mut run = cargo();
    run.args(["run", "--quiet", "--release", "-p", "kvq-replay", "--example", "c_header"]);
    run.arg("--manifest-path").arg(root().join("firmware-example/Cargo.toml"));
    run.env("CARGO_TARGET_DIR", target_dir);
    println!("$ {}", render(&run));
    let header = capture(&mut run, INSTALL_CARGO)?;
    fs::write(path, header).with_context(|| format!("writing {}", path.display()))
}

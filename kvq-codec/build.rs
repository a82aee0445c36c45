//! Finds out what stable Rust does not tell: whether the compilation target has Arm's DSP instructions and Helium, and
//! whether the crate is compiled for size.

use std::env;

/// Armv8-M cores that may be named by `-C target-cpu` and have the DSP extension.
const DSP_CPUS: [&str; 5] = ["cortex-m33", "cortex-m35p", "cortex-m52", "cortex-m55", "cortex-m85"];

/// Those of them that have Helium with integers, unless `-C target-feature=-mve` says that this one was made without.
const MVE_CPUS: [&str; 3] = ["cortex-m52", "cortex-m55", "cortex-m85"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(kvq_dsp)");
    println!("cargo:rustc-check-cfg=cfg(kvq_mve)");
    println!("cargo:rustc-check-cfg=cfg(kvq_small)");
    // Cargo tells how far the crate is to be optimised: where that is for size, calls take the place of copies.
    if matches!(env::var("OPT_LEVEL").as_deref(), Ok("s" | "z")) {
        println!("cargo:rustc-cfg=kvq_small");
    }
    let target = env::var("TARGET").unwrap_or_default();
    // Arguments are separated by this character; the CPU may be joined to its flag by a space or by `=`.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let cpu = flags.split('\x1f').filter_map(|flag| flag.split_once("target-cpu=")).next_back();
    let is_one_of = |cpus: &[&str]| cpu.is_some_and(|(_, cpu)| cpus.contains(&cpu));
    let is_v8m = target.starts_with("thumbv8m.main");
    if target.starts_with("thumbv7em") || (is_v8m && is_one_of(&DSP_CPUS)) {
        println!("cargo:rustc-cfg=kvq_dsp");
    }
    let without_mve = flags.split(['\x1f', ',', '=']).any(|feature| feature == "-mve");
    // Its registers are those of the FPU, which a program without one need not have switched on.
    if is_v8m && target.ends_with("eabihf") && is_one_of(&MVE_CPUS) && !without_mve {
        println!("cargo:rustc-cfg=kvq_mve");
    }
}

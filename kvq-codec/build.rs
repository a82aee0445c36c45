//! Finds out whether the compilation target has Arm's DSP instructions, which stable Rust does not tell.

use std::env;

/// Armv8-M cores that may be named by `-C target-cpu` and have the DSP extension.
const DSP_CPUS: [&str; 5] = ["cortex-m33", "cortex-m35p", "cortex-m52", "cortex-m55", "cortex-m85"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(kvq_dsp)");
    let target = env::var("TARGET").unwrap_or_default();
    // Arguments are separated by this character; the CPU may be joined to its flag by a space or by `=`.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let cpu = flags.split('\x1f').filter_map(|flag| flag.split_once("target-cpu=")).next_back();
    let is_dsp_cpu = cpu.is_some_and(|(_, cpu)| DSP_CPUS.contains(&cpu));
    if target.starts_with("thumbv7em") || (target.starts_with("thumbv8m.main") && is_dsp_cpu) {
        println!("cargo:rustc-cfg=kvq_dsp");
    }
}

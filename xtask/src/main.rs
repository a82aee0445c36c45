//! Development tasks: `cargo xtask <verb>`. One verb per file; CI only calls these.

mod aarch64;
mod bench;
mod c_firmware;
mod fetch_model;
mod golden;
mod header;
mod miri;
mod no_panic;
mod qemu;
mod setup;
mod test;
mod tool;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "KVQ's development tasks", disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what the tests need: the Rust targets, QEMU and a C compiler.
    Setup,
    /// Run every check, in order, and count them.
    Test(test::Args),
    /// Measure every operation, write a record and compare it with the last one.
    Bench(bench::Args),
    /// Build the firmware, run it under QEMU and compare its logs with the blessed ones.
    Qemu(qemu::Args),
    /// Write the codec's golden files anew, after a deliberate change of the format.
    Golden,
    /// Run the codec's tests under Miri, little- and big-endian.
    Miri,
    /// Write the header of the C interface anew, after a change of kvq-capi.
    Header,
    /// Put a real model under models/.
    FetchModel(fetch_model::Args),
    /// Train the built-in model from a text file.
    Train(train::Args),
}

fn main() -> ExitCode {
    let result = match Args::parse().verb {
        Verb::Setup => setup::run(),
        Verb::Test(args) => test::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Qemu(args) => qemu::run(&args),
        Verb::Golden => golden::run(),
        Verb::Miri => miri::run(),
        Verb::Header => header::run(),
        Verb::FetchModel(args) => fetch_model::run(&args),
        Verb::Train(args) => train::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

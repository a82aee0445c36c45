//! Development tasks: `cargo xtask <verb>`. One verb per file; CI only calls these.

mod aarch64;
mod bench;
mod book;
mod c_firmware;
mod commands;
mod fetch_model;
mod fuzz;
mod golden;
mod header;
mod links;
mod markdown;
mod miri;
mod msrv;
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
    /// Install what the tests need: the Rust targets, QEMU, a C compiler and mdBook.
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
    /// Run each fuzz target for some seconds.
    Fuzz(fuzz::Args),
    /// Check what is published with the oldest Rust that it promises to build with.
    Msrv,
    /// Build the documents as a book, and follow their links.
    Book,
    /// Write the header of the C interface anew, after a change of kvq-capi.
    Header,
    /// Put a real model under models/.
    FetchModel(fetch_model::Args),
    /// Train the built-in model from a text file.
    Train(train::Args),
}

/// Whether these words, which follow `cargo xtask`, are a command.
///
/// # Errors
/// With what clap says about them.
fn parse(words: &[&str]) -> Result<(), clap::Error> {
    Args::try_parse_from([&["cargo xtask"][..], words].concat()).map(|_| ()).or_else(|error| {
        if error.kind() == clap::error::ErrorKind::DisplayHelp { Ok(()) } else { Err(error) }
    })
}

fn main() -> ExitCode {
    let result = match Args::parse().verb {
        Verb::Setup => setup::run(),
        Verb::Test(args) => test::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Qemu(args) => qemu::run(&args),
        Verb::Golden => golden::run(),
        Verb::Miri => miri::run(),
        Verb::Fuzz(args) => fuzz::run(&args),
        Verb::Msrv => msrv::run(),
        Verb::Book => book::run(),
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

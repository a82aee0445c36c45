//! The `kvq` program: parse, run, exit.

use std::process::ExitCode;

use clap::Parser;
use kvq_host::cli::{Cli, UsageError};

fn main() -> ExitCode {
    sigpipe::reset();
    let cli = Cli::parse();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<UsageError>() { 2 } else { 1 })
        }
    }
}

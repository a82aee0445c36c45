//! `bench`: measures every operation, writes a record, and compares it with the last one.
//!
//! Criterion measures one bench at a time, so a machine that changes its pace in between would show up as a
//! difference between two operations. The whole set is therefore run several times; a record holds the median
//! over the rounds, and their spread as its noise. Times are never a failure: another machine, or the same one on
//! another day, has others.

mod compare;
mod criterion;
mod date;
mod machine;
mod record;
mod turns;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::tool::{cargo, render, root, run as run_tool};
use record::{Bench, Record};
use turns::Turn;

const INSTALL_CARGO: &str = "install Rust from https://rustup.rs";

/// Names the file to which each bench adds a line on its work: see `benches/src/measure.rs`.
const WORK_FILE: &str = "KVQ_BENCH_WORK";

/// The same for what is timed in turns.
const TURNS_FILE: &str = "KVQ_BENCH_TURNS";

/// Short times for a first look.
const QUICK: [&str; 6] = ["--warm-up-time", "0.05", "--measurement-time", "0.1", "--sample-size", "10"];

#[derive(clap::Args)]
pub struct Args {
    /// Only benches whose id contains this, for example attend/cold.
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
    /// One round of short measurements; compares, and writes no record unless --out names one.
    #[arg(long)]
    quick: bool,
    /// How often the whole set is run [default: 3, with --quick 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: Option<u32>,
    /// Where the record goes [default: benches/record/TARGET/DATE.json; none with --quick or a filter].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// The benches' compile-and-verify step of `cargo xtask test`: each runs once and compares its answer.
pub fn verify() -> std::process::Command {
    let mut cargo = cargo();
    cargo.args(["bench", "-p", "kvq-benches", "--benches", "--", "--test"]);
    cargo
}

pub fn run(args: &Args) -> Result<()> {
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { 3 });
    let load_before = machine::load();
    let (mut measured, mut turns) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        println!("==> round {round} of {rounds}");
        let (benches, in_turns) = measure(args)?;
        measured.push(benches);
        turns.push(in_turns);
    }
    let benches = Bench::over_rounds(&measured)?;
    let turns = turns::over_rounds(&turns)?;
    ensure!(
        !benches.is_empty() || !turns.is_empty(),
        "no bench has an id that contains {:?}",
        args.filter.as_deref().unwrap_or("")
    );
    let record = Record {
        schema_version: record::SCHEMA_VERSION,
        date: date::today(),
        machine: machine::Machine::here()?,
        load_before,
        load_after: machine::load(),
        rounds,
        quick: args.quick,
        benches,
        turns,
    };
    let folder = root().join("benches/record").join(&record.machine.target);
    let last = record::last(&folder)?;
    println!("\n{}\n{}", record.table(), turns::table(&record.turns));
    match &last {
        Some((path, last)) => print!("{}", compare::report(last, &path.display().to_string(), &record)),
        None => println!("no record in {} to compare with", folder.display()),
    }
    let whole = !args.quick && args.filter.is_none();
    match (&args.out, whole) {
        (Some(path), _) => record.write(path),
        (None, true) => record.write(&record::free_path(&folder, &record.date)),
        (None, false) => Ok(()),
    }
}

/// One run of the set.
fn measure(args: &Args) -> Result<(Vec<Bench>, Vec<Turn>)> {
    // Apart from what `cargo bench` writes, and emptied, so that no figure of another run gets in.
    let home = target_folder().join("kvq-bench");
    match fs::remove_dir_all(&home) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("emptying {}", home.display()));
        }
        _ => fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?,
    }
    let (work, turns) = (home.join("work.tsv"), home.join("turns.tsv"));
    let mut command = cargo();
    command.args(["bench", "-p", "kvq-benches", "--benches", "--", "--noplot"]);
    command.args(if args.quick { &QUICK[..] } else { &[] }).args(args.filter.as_deref());
    command.env("CRITERION_HOME", &home).env(WORK_FILE, &work).env(TURNS_FILE, &turns);
    println!("{}", render(&command));
    run_tool(&mut command, INSTALL_CARGO)?;
    Ok((criterion::collect(&home, &work)?, turns::collect(&turns)?))
}

fn target_folder() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(Path::new(&folder)),
        None => root().join("target"),
    }
}

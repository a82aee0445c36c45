//! The number of threads, for every pool in the process.
//!
//! candle sizes its own pools from environment variables that it reads when it first needs them, and a
//! process cannot change its environment safely. So where the variables do not say what is wanted, the
//! program starts itself once more with variables that do. Without this, a model would go on using all
//! cores while the record says otherwise.
//!
//! The same restart shortens how long candle's workers spin for work before they sleep. With candle's own
//! limit, one other busy process on a machine of two cores made a model of 135 million parameters decode at
//! 3 tokens per second instead of 47 on one thread; with this one it is 15, and 75 when the machine is quiet.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Read by rayon and candle, and by candle's pool for quantized products.
const VARIABLES: [&str; 2] = ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"];

/// How often candle's workers look for work before they sleep, and the name of the variable.
const SPIN_LIMIT: (&str, &str) = ("CANDLE_BARRIER_POOL_SPIN_LIMIT", "2000");

/// Makes `wanted` threads (all cores, if not given and not in the environment) the size of every pool, and
/// returns their number. Must come before anything that computes.
///
/// # Errors
/// The program cannot be started again.
pub fn apply(wanted: Option<usize>) -> Result<usize> {
    let in_environment = |name: &str| std::env::var(name).ok()?.parse::<usize>().ok().filter(|&n| n > 0);
    let all_cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = wanted.or_else(|| in_environment(VARIABLES[0])).unwrap_or_else(all_cores);
    let is_set = VARIABLES.iter().all(|name| in_environment(name) == Some(threads));
    if !is_set || std::env::var_os(SPIN_LIMIT.0).is_none() {
        restart(threads)?;
    }
    ensure!(
        rayon::current_num_threads() == threads,
        "--threads {threads}: the thread pool has {} threads",
        rayon::current_num_threads()
    );
    Ok(threads)
}

/// Runs this program again, with the number of threads in its environment, and ends this process.
fn restart(threads: usize) -> Result<()> {
    let program = std::env::current_exe().context("finding this program to start it with other threads")?;
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1));
    for name in VARIABLES {
        command.env(name, threads.to_string());
    }
    if std::env::var_os(SPIN_LIMIT.0).is_none() {
        command.env(SPIN_LIMIT.0, SPIN_LIMIT.1);
    }
    become_process(&mut command).context("starting this program with other threads")
}

#[cfg(unix)]
fn become_process(command: &mut Command) -> Result<()> {
    use std::os::unix::process::CommandExt;
    // Returns only if it fails.
    Err(command.exec().into())
}

#[cfg(not(unix))]
fn become_process(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    std::process::exit(status.code().unwrap_or(1))
}

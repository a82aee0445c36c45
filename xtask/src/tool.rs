//! Running other programs: where, with which environment, and how a failure is worded.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, anyhow, bail};

/// The repository's root folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the root folder").to_path_buf()
}

/// A command that runs in the repository's root folder.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// `cargo` as a user's shell would start it.
///
/// What the outer `cargo run` sets for xtask itself is removed: build scripts that watch
/// `CARGO_PKG_NAME` and the like would otherwise run again each time cargo is called from
/// the other side.
pub fn cargo() -> Command {
    let mut command = command("cargo");
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_MANIFEST_")
            || name.starts_with("CARGO_BIN_")
        {
            command.env_remove(&key);
        }
    }
    command
}

/// The Python interpreter: `$PYTHON`, else `python3`.
pub fn python() -> Command {
    command(std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into()))
}

/// The command as one would type it, with the variables that it sets.
pub fn render(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(key, value)| {
        let (key, value) = (key.to_string_lossy(), value?.to_string_lossy());
        Some(if value.contains(' ') { format!("{key}='{value}'") } else { format!("{key}={value}") })
    });
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(|word| {
        let word = word.to_string_lossy();
        if word.contains([' ', '\n', ';']) { format!("'{word}'") } else { word.into_owned() }
    });
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

/// Runs to the end with the terminal as output.
///
/// # Errors
/// When the program is missing (with `install`, the way to get it) or its exit status is not 0.
pub fn run(command: &mut Command, install: &str) -> Result<()> {
    let status = command.status().map_err(|error| missing(command, error, install))?;
    if !status.success() {
        bail!("`{}` ended with {status}", render(command));
    }
    Ok(())
}

/// Runs to the end and keeps standard output; standard error goes to the terminal.
///
/// # Errors
/// As [`run`].
pub fn capture(command: &mut Command, install: &str) -> Result<String> {
    let output =
        command.stderr(Stdio::inherit()).output().map_err(|error| missing(command, error, install))?;
    stdout_of(command, output)
}

/// Whether the program runs and ends with status 0; its output is dropped.
pub fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn stdout_of(command: &Command, output: Output) -> Result<String> {
    if !output.status.success() {
        bail!("`{}` ended with {}", render(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of `{}`", render(command)))
}

fn missing(command: &Command, error: std::io::Error, install: &str) -> anyhow::Error {
    let program = command.get_program().to_string_lossy();
    if error.kind() == ErrorKind::NotFound {
        anyhow!("`{program}` was not found: {install}")
    } else {
        anyhow!("`{program}` could not be started: {error}")
    }
}

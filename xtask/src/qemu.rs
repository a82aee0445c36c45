//! `qemu`: the firmware's programs on emulated boards.
//!
//! Each program is built for the board, run, its `defmt` frames decoded, and its log compared with the
//! blessed `firmware-example/src/bin/<program>.<board>.out`. With `-icount` the emulator counts
//! instructions instead of time, so that everything logged repeats exactly.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use defmt_decoder::{DecodeError, Table};

use crate::c_firmware;
use crate::setup::{self, QEMU};
use crate::tool::{cargo, command, render, root, run as run_tool};

const INSTALL_CARGO: &str = "install Rust from https://rustup.rs";

/// One instruction takes `2^3` ns of the emulated clock.
const ICOUNT: &str = "shift=3";

/// Longer than any program takes here, by an order of magnitude.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Compiler-dependent numbers, which logs mark with a `~`, may differ from the blessed ones by this share.
const SLACK: f64 = 0.1;

/// An emulated board; what it has in flash and RAM is in its `memory.x`.
pub struct Board {
    /// Folder of `firmware-example/boards/`, and QEMU's name of the machine.
    pub name: &'static str,
    target: &'static str,
    /// `-C target-cpu`, where the target alone would leave instructions unused.
    cpu: Option<&'static str>,
    programs: &'static [Program],
}

/// A file of `firmware-example/src/bin` or of `firmware-example/c`, and the Cargo profile that it, or the library for
/// C, is built with.
struct Program {
    name: &'static str,
    profile: &'static str,
}

impl Program {
    fn is_c(&self) -> bool {
        self.profile == c_firmware::PROFILE
    }

    fn blessed(&self, board: &Board) -> PathBuf {
        let Self { name, profile } = self;
        if self.is_c() {
            return folder().join("c").join(format!("{name}.{}.out", board.name));
        }
        let profile = if *profile == "release" { String::new() } else { format!("-{profile}") };
        folder().join("src/bin").join(format!("{name}{profile}.{}.out", board.name))
    }
}

const SELFTEST: Program = Program { name: "selftest", profile: "release" };
const FOOTPRINT: Program = Program { name: "footprint", profile: "release" };
const STREAM: Program = Program { name: "stream", profile: "release" };
const SNAPSHOT: Program = Program { name: "snapshot", profile: "release" };
const STACK: Program = Program { name: "stack", profile: "release" };

/// Needs a model image.
const GENERATE: Program = Program { name: "generate", profile: "release" };

/// Built without default features, the codec's included.
const SIZE_S4: &str = "size_s4";

/// What every board runs.
const COMMON: &[Program] = &[SELFTEST, STREAM, SNAPSHOT, FOOTPRINT, STACK];

/// The board for which sizes are stated, too.
const FIRST: &[Program] = &[
    SELFTEST,
    STREAM,
    SNAPSHOT,
    FOOTPRINT,
    STACK,
    GENERATE,
    Program { name: "size_empty", profile: "release" },
    Program { name: "size_cache", profile: "release" },
    Program { name: SIZE_S4, profile: "release" },
    Program { name: "size_empty", profile: "small" },
    Program { name: "size_cache", profile: "small" },
    Program { name: SIZE_S4, profile: "small" },
    Program { name: "selftest", profile: c_firmware::PROFILE },
];

/// What a C compiler needs to know of the core of the board that C programs are for.
const C_FLAGS: [&str; 4] = ["-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"];

/// Every board.
pub const BOARDS: [Board; 6] = [
    board("netduinoplus2", "thumbv7em-none-eabihf", None, FIRST),
    board("mps2-an500", "thumbv7em-none-eabihf", Some("cortex-m7"), COMMON),
    board("mps3-an547", "thumbv8m.main-none-eabihf", Some("cortex-m55"), COMMON),
    board("mps2-an505", "thumbv8m.main-none-eabihf", None, COMMON),
    board("lm3s6965evb", "thumbv7m-none-eabi", None, COMMON),
    board("microbit", "thumbv6m-none-eabi", None, COMMON),
];

const fn board(
    name: &'static str,
    target: &'static str,
    cpu: Option<&'static str>,
    programs: &'static [Program],
) -> Board {
    Board { name, target, cpu, programs }
}

#[derive(clap::Args)]
pub struct Args {
    /// Only this board.
    #[arg(long, value_name = "BOARD", value_parser = BOARDS.map(|board| board.name))]
    board: Option<String>,
    /// Only programs of this name, files of firmware-example/src/bin and firmware-example/c.
    #[arg(long, value_name = "NAME")]
    program: Option<String>,
    /// Model image for `generate` instead of the built-in model's: its log is compared with nothing, but the program
    /// itself compares tokens and cache bytes with this host's.
    #[arg(long, value_name = "FILE", requires = "program", conflicts_with = "bless")]
    image: Option<PathBuf>,
    /// Write the blessed logs anew, after looking at them.
    #[arg(long)]
    bless: bool,
}

pub fn run(args: &Args) -> Result<()> {
    setup::ensure_thumb_targets()?;
    setup::require_qemu()?;
    let mut failures = Vec::new();
    let mut n_runs = 0;
    for board in BOARDS.iter().filter(|b| args.board.as_ref().is_none_or(|name| name == b.name)) {
        for program in
            board.programs.iter().filter(|p| args.program.as_ref().is_none_or(|name| name == p.name))
        {
            n_runs += 1;
            if let Err(error) = check(board, program, args.image.as_deref(), args.bless) {
                let name = format!("{} ({}) on {}", program.name, program.profile, board.name);
                println!("FAILED: {name}: {error:#}");
                failures.push(name);
            }
        }
    }
    if n_runs == 0 {
        bail!("no board runs a program of that name");
    }
    if failures.is_empty() {
        println!("{n_runs} passed, 0 failed");
        return Ok(());
    }
    bail!("{} of {n_runs} failed: {}", failures.len(), failures.join(", "))
}

/// Every program of one board.
///
/// # Errors
/// A missing tool, with the command that installs it; a failed build; a program that ends with a code
/// other than 0 or logs something else than is blessed.
pub fn check_board(board: &Board) -> Result<()> {
    setup::require_qemu()?;
    board.programs.iter().try_for_each(|program| check(board, program, None, false))
}

/// The manifest of the firmware's workspace.
pub fn manifest() -> PathBuf {
    folder().join("Cargo.toml")
}

fn folder() -> PathBuf {
    root().join("firmware-example")
}

/// Where the firmware is built: beside other outputs if `CARGO_TARGET_DIR` says where those are.
fn target_dir() -> PathBuf {
    let shared = std::env::var_os("CARGO_TARGET_DIR");
    shared.map_or_else(|| folder().join("target"), |dir| root().join(dir).join("firmware"))
}

/// `cargo VERB` for a board.
fn cargo_for(board: &Board, verb: &str, profile: &str) -> Command {
    let mut cargo = cargo();
    cargo.args([verb, "--profile", profile, "--target", board.target, "--manifest-path"]).arg(manifest());
    cargo.env("KVQ_BOARD", board.name).env("DEFMT_LOG", "info").env("CARGO_TARGET_DIR", target_dir());
    let flags = board.cpu.map_or_else(String::new, |cpu| format!("-C target-cpu={cpu}"));
    cargo.env("RUSTFLAGS", flags);
    cargo
}

/// Lints of every firmware program, for the first board.
///
/// # Errors
/// A warning, or a model image that cannot be written.
pub fn lint() -> Result<()> {
    let mut lint = cargo_for(&BOARDS[0], "clippy", "release");
    lint.args(["--workspace", "--features", "generate"]).env("KVQ_IMAGE", export_image()?);
    lint.args(["--", "-D", "warnings"]);
    println!("$ {}", render(&lint));
    run_tool(&mut lint, INSTALL_CARGO)
}

fn build(board: &Board, program: &Program, image: Option<&Path>) -> Result<PathBuf> {
    if program.is_c() {
        let memory_x = folder().join("boards").join(board.name).join("memory.x");
        return c_firmware::build(program.name, &memory_x, board.target, &C_FLAGS, &target_dir());
    }
    let mut build = cargo_for(board, "build", program.profile);
    build.args(["--quiet", "--bin", program.name]);
    if program.name == SIZE_S4 {
        build.arg("--no-default-features");
    }
    if program.name == GENERATE.name {
        let image = match image {
            Some(image) => std::path::absolute(image)?,
            None => export_image()?,
        };
        build.args(["--features", "generate"]).env("KVQ_IMAGE", image);
    }
    println!("$ {}", render(&build));
    run_tool(&mut build, INSTALL_CARGO)?;
    Ok(target_dir().join(board.target).join(program.profile).join(program.name))
}

fn check(board: &Board, program: &Program, image: Option<&Path>, bless: bool) -> Result<()> {
    let elf = build(board, program, image)?;
    let begun = Instant::now();
    let (log, status) = emulate(board, program, &elf)?;
    print!("{log}");
    println!("({} on {}: {:.1} s)", program.name, board.name, begun.elapsed().as_secs_f64());
    if !status.success() {
        bail!("the program ended with {status}");
    }
    if log.contains('~') && emulate(board, program, &elf)?.0 != log {
        bail!("its figures differ when it runs again");
    }
    if image.is_some() {
        return Ok(());
    }
    let blessed = program.blessed(board);
    if bless {
        return fs::write(&blessed, log).with_context(|| format!("writing {}", blessed.display()));
    }
    compare(&blessed, &log).map_err(|error| {
        anyhow!("{error:#}\n  if it should be so: cargo xtask qemu --board {} --bless", board.name)
    })
}

/// Has the host program write the image of the built-in model, and returns where it is.
fn export_image() -> Result<PathBuf> {
    let image = target_dir().join("builtin.image");
    fs::create_dir_all(target_dir()).with_context(|| format!("creating {}", target_dir().display()))?;
    let mut export = cargo();
    export.args(["run", "--quiet", "--release", "-p", "kvq-host", "--", "export", "--out"]).arg(&image);
    println!("$ {}", render(&export));
    run_tool(&mut export, INSTALL_CARGO)?;
    Ok(image)
}

/// Runs the program to its end and returns its log: one line per frame, or from C what it wrote.
fn emulate(board: &Board, program: &Program, elf: &Path) -> Result<(String, ExitStatus)> {
    let mut qemu = command(QEMU);
    qemu.args(["-machine", board.name, "-icount", ICOUNT, "-display", "none", "-monitor", "none"]);
    qemu.args(["-serial", "none", "-chardev", "stdio,id=sh"]);
    qemu.args(["-semihosting-config", "enable=on,target=native,chardev=sh", "-kernel"]).arg(elf);
    qemu.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = qemu.spawn().map_err(|error| anyhow!("`{QEMU}` could not be started: {error}"))?;
    let mut stdout = child.stdout.take().context("QEMU has no output")?;
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).map(|_| bytes)
    });
    let status = wait(&mut child)?;
    let bytes = reader.join().map_err(|_| anyhow!("reading QEMU's output failed"))??;
    let log = if program.is_c() { String::from_utf8(bytes)? } else { decode(elf, &bytes)? };
    let Some(status) = status else {
        bail!("no end after {} s; it had logged:\n{log}", TIMEOUT.as_secs());
    };
    Ok((log, status))
}

/// The exit status, or `None` if the child had to be ended.
fn wait(child: &mut Child) -> Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() > TIMEOUT {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// `defmt` frames to text, with the format strings that the ELF file holds.
fn decode(elf: &Path, bytes: &[u8]) -> Result<String> {
    let file = fs::read(elf).with_context(|| format!("reading {}", elf.display()))?;
    let table = Table::parse(&file)?.with_context(|| format!("{} has no defmt strings", elf.display()))?;
    let mut decoder = table.new_stream_decoder();
    decoder.received(bytes);
    let mut log = String::new();
    loop {
        match decoder.decode() {
            Ok(frame) => {
                let level = frame.level().map_or("", |level| level.as_str());
                log.push_str(&format!("{level} {}\n", frame.display_message()));
            }
            Err(DecodeError::UnexpectedEof) => return Ok(log),
            Err(DecodeError::Malformed) => bail!("a frame of the log is malformed; before it:\n{log}"),
        }
    }
}

fn compare(blessed: &Path, log: &str) -> Result<()> {
    let expected = fs::read_to_string(blessed).with_context(|| format!("reading {}", blessed.display()))?;
    let (mut expected_lines, mut lines) = (expected.lines(), log.lines());
    let mut number = 1;
    loop {
        let (expected, got) = (expected_lines.next(), lines.next());
        if expected.is_none() && got.is_none() {
            return Ok(());
        }
        if !expected.zip(got).is_some_and(|(a, b)| is_alike(a, b)) {
            let end = "(end of the log)";
            bail!(
                "line {number} differs from {}:\n  blessed: {}\n  now:     {}",
                blessed.display(),
                expected.unwrap_or(end),
                got.unwrap_or(end)
            );
        }
        number += 1;
    }
}

/// Whether two lines are equal, but for the slack of numbers behind a `~`.
fn is_alike(expected: &str, got: &str) -> bool {
    let (mut a, mut b) = (expected.split(' '), got.split(' '));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(a), Some(b)) if a == b || approximate(a).zip(approximate(b)).is_some_and(is_near) => {}
            _ => return false,
        }
    }
}

/// The number of a word like `~12.5,`.
fn approximate(word: &str) -> Option<f64> {
    word.strip_prefix('~')?.trim_end_matches([',', ';']).parse().ok()
}

/// Within the slack; half a unit is always allowed, since small numbers are rounded.
fn is_near((expected, got): (f64, f64)) -> bool {
    (expected - got).abs() <= (SLACK * expected).max(0.5)
}

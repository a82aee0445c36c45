//! What a measurement ran on.

use std::fs;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::tool::{capture, command};

/// The machine, the compiler and the sources.
#[derive(Serialize, Deserialize)]
pub struct Machine {
    /// The compiler's target triple.
    pub target: String,
    /// Null where the system does not tell.
    pub cpu: Option<String>,
    /// Logical processors that this process may use.
    pub logical_cpus: usize,
    /// The first processor's caches, as `L2 unified 512K`.
    pub caches: Vec<String>,
    pub memory_bytes: Option<u64>,
    pub os: Option<String>,
    /// The compiler's version line.
    pub rustc: String,
    /// The commit that is checked out.
    pub commit: String,
    /// Whether tracked files differ from it.
    pub changed_files: bool,
}

impl Machine {
    pub fn here() -> Result<Self> {
        let version = capture(command("rustc").arg("-vV"), "install Rust from https://rustup.rs")?;
        let of = |key: &str| version.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let git = |args: &[&str]| capture(command("git").args(args), "install git");
        Ok(Self {
            target: of("host:").context("rustc -vV names no host")?.to_owned(),
            cpu: proc_value("/proc/cpuinfo", "model name"),
            logical_cpus: std::thread::available_parallelism().map_or(1, usize::from),
            caches: caches(),
            memory_bytes: proc_value("/proc/meminfo", "MemTotal").as_deref().and_then(kib),
            os: fs::read_to_string("/proc/version")
                .ok()
                .map(|s| s.split(" (").next().unwrap_or("").to_owned()),
            rustc: version.lines().next().unwrap_or_default().to_owned(),
            commit: git(&["rev-parse", "HEAD"])?.trim().to_owned(),
            changed_files: !git(&["status", "--porcelain", "--untracked-files=no"])?.trim().is_empty(),
        })
    }
}

/// Processes that were running or waiting over the last minute; null where the system does not tell. More than
/// the one that measures means that somebody else was at work.
pub fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

fn caches() -> Vec<String> {
    let mut found = Vec::new();
    for index in 0.. {
        let part = |name: &str| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}");
            fs::read_to_string(path).ok().map(|s| s.trim().to_lowercase())
        };
        let (Some(level), Some(kind), Some(size)) = (part("level"), part("type"), part("size")) else {
            break;
        };
        found.push(format!("L{level} {kind} {}", size.to_uppercase()));
    }
    found
}

/// The value of the first `key: value` line.
fn proc_value(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

/// Bytes of a figure such as `8034172 kB`.
fn kib(value: &str) -> Option<u64> {
    value.strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

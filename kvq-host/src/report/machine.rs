//! Where a measurement was made.

use serde::{Deserialize, Serialize};

/// The machine, as far as the system tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Machine {
    /// Name of the processor; null where the system does not tell.
    pub cpu: Option<String>,
    /// Logical processors that this process may use.
    pub logical_cpus: usize,
    /// Instruction-set architecture.
    pub arch: String,
    /// Vector extensions found at run time that the kernels ask for.
    pub cpu_features: Vec<String>,
    /// Main memory, bytes; null where the system does not tell.
    pub memory_bytes: Option<u64>,
    /// Operating system.
    pub os: String,
}

impl Machine {
    /// Describes this machine.
    pub fn here() -> Self {
        Self {
            cpu: proc_value("/proc/cpuinfo", "model name"),
            logical_cpus: std::thread::available_parallelism().map_or(1, usize::from),
            arch: std::env::consts::ARCH.into(),
            cpu_features: cpu_features().into_iter().map(str::to_owned).collect(),
            memory_bytes: proc_value("/proc/meminfo", "MemTotal").as_deref().and_then(kib),
            os: std::env::consts::OS.into(),
        }
    }
}

/// The greatest resident memory this process has had, bytes; `None` where the system does not tell.
pub fn peak_rss_bytes() -> Option<u64> {
    proc_value("/proc/self/status", "VmHWM").as_deref().and_then(kib)
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    let found = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("f16c", std::arch::is_x86_feature_detected!("f16c")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512vnni", std::arch::is_x86_feature_detected!("avx512vnni")),
        ("avx512vbmi", std::arch::is_x86_feature_detected!("avx512vbmi")),
        ("gfni", std::arch::is_x86_feature_detected!("gfni")),
    ];
    found.into_iter().filter_map(|(name, found)| found.then_some(name)).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}

/// The value of the first `key: value` line of a file under /proc.
fn proc_value(path: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    value_of(&text, key)
}

fn value_of(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

/// Bytes of a figure such as `8034172 kB`.
fn kib(value: &str) -> Option<u64> {
    value.strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_read() {
        let text = "processor\t: 0\nmodel name\t: Some CPU\nMemTotal:  8 kB\n";
        assert_eq!(value_of(text, "model name").as_deref(), Some("Some CPU"));
        assert_eq!(value_of(text, "MemTotal").as_deref().and_then(kib), Some(8192));
        assert_eq!(value_of(text, "absent"), None);
    }
}

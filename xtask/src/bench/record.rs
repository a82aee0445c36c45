//! The record of one measurement, as a file.

use std::cmp::Ordering;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::turns::Turn;

pub const SCHEMA_VERSION: u32 = 1;

/// One measurement of all benches.
#[derive(Serialize, Deserialize)]
pub struct Record {
    pub schema_version: u32,
    /// UTC.
    pub date: String,
    pub machine: Machine,
    /// Load of the last minute when it began and when it ended.
    pub load_before: Option<f64>,
    pub load_after: Option<f64>,
    /// How often the whole set was run.
    pub rounds: u32,
    /// Whether each bench was measured for a moment only.
    pub quick: bool,
    pub benches: Vec<Bench>,
    /// What was timed in turns; empty in records of before.
    #[serde(default)]
    pub turns: Vec<Turn>,
}

/// One operation.
#[derive(Clone, Serialize, Deserialize)]
pub struct Bench {
    /// `operation/state/case`; limits of the machine are `operation-limit/state/memcpy or read/bytes`.
    pub id: String,
    /// What the processor's caches held: `warm` or `cold`.
    pub state: String,
    /// Bytes per call in the form that the cache holds.
    pub packed_bytes: u64,
    /// Bytes of the same values in fp16.
    pub fp16_bytes: u64,
    /// Median time of a call, the median of the rounds.
    pub median_ns: f64,
    /// Least and greatest median of a round; of one round alone, criterion's interval of confidence.
    pub low_ns: f64,
    pub high_ns: f64,
}

impl Bench {
    /// One entry per bench of the rounds, all of which have the same ones.
    pub fn over_rounds(rounds: &[Vec<Self>]) -> Result<Vec<Self>> {
        let [first, others @ ..] = rounds else { return Ok(Vec::new()) };
        if others.is_empty() {
            return Ok(first.clone());
        }
        let mut all = Vec::new();
        for (i, bench) in first.iter().enumerate() {
            let mut medians = Vec::new();
            for round in rounds {
                let same = round.get(i).filter(|other| other.id == bench.id);
                medians.push(same.with_context(|| format!("{} is not in every round", bench.id))?.median_ns);
            }
            medians.sort_by(f64::total_cmp);
            all.push(Self {
                median_ns: medians[medians.len() / 2],
                low_ns: medians[0],
                high_ns: medians[medians.len() - 1],
                ..bench.clone()
            });
        }
        Ok(all)
    }

    /// Half of the spread, as a share of the median.
    pub fn noise(&self) -> f64 {
        (self.high_ns - self.low_ns) / (2.0 * self.median_ns)
    }

    pub fn is_limit(&self) -> bool {
        self.operation().ends_with("-limit")
    }

    pub fn operation(&self) -> &str {
        self.id.split('/').next().unwrap_or_default()
    }
}

impl Record {
    /// The time of a copy or a read (`what`) of as many bytes as `bench` holds, in the same state.
    fn limit(&self, bench: &Bench, what: &str) -> Option<f64> {
        let id = format!("{}-limit/{}/{what}/{}", bench.operation(), bench.state, bench.packed_bytes);
        self.benches.iter().find(|other| other.id == id).map(|other| other.median_ns)
    }

    /// A line per operation: time, both throughputs, and how many times the limits it takes.
    pub fn table(&self) -> String {
        let width = self.benches.iter().map(|bench| bench.id.len()).max().unwrap_or(0);
        let mut out = format!(
            "{:width$} {:>12} {:>7} {:>12} {:>11} {:>9} {:>8}\n",
            "", "ns", "noise", "packed MB/s", "fp16 MB/s", "x memcpy", "x read"
        );
        for bench in self.benches.iter().filter(|bench| !bench.is_limit()) {
            let mb_per_s = |bytes: u64| bytes as f64 * 1e3 / bench.median_ns;
            let times = |what| {
                self.limit(bench, what).map_or("-".to_owned(), |ns| format!("{:.1}", bench.median_ns / ns))
            };
            let _ = writeln!(
                out,
                "{:width$} {:>12.0} {:>5.1} % {:>12.0} {:>11.0} {:>9} {:>8}",
                bench.id,
                bench.median_ns,
                100.0 * bench.noise(),
                mb_per_s(bench.packed_bytes),
                mb_per_s(bench.fp16_bytes),
                times("memcpy"),
                times("read"),
            );
        }
        out
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        println!("wrote {}", path.display());
        Ok(())
    }
}

/// The newest record in `folder`, if there is one.
pub fn last(folder: &Path) -> Result<Option<(PathBuf, Record)>> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(None) };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok().filter(|name| key(name).is_some()));
    }
    names.sort_by(|a, b| order(a, b));
    let Some(name) = names.last() else { return Ok(None) };
    let path = folder.join(name);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let record: Record =
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    ensure!(
        record.schema_version == SCHEMA_VERSION,
        "{} has schema_version {}, this program reads {SCHEMA_VERSION}",
        path.display(),
        record.schema_version
    );
    Ok(Some((path, record)))
}

/// A path for today's record that no file has: `2026-01-31.json`, then `2026-01-31-2.json`.
pub fn free_path(folder: &Path, date: &str) -> PathBuf {
    let plain = folder.join(format!("{date}.json"));
    let numbered = (2..).map(|n| folder.join(format!("{date}-{n}.json")));
    std::iter::once(plain).chain(numbered).find(|path| !path.exists()).expect("numbers do not end")
}

/// Date and number of a record's file name; `None` for other files.
fn key(name: &str) -> Option<(&str, u32)> {
    let stem = name.strip_suffix(".json")?;
    let (date, rest) = stem.split_at_checked(10)?;
    let is_date =
        date.bytes().enumerate().all(|(i, b)| if i == 4 || i == 7 { b == b'-' } else { b.is_ascii_digit() });
    let number = if rest.is_empty() { 1 } else { rest.strip_prefix('-')?.parse().ok()? };
    is_date.then_some((date, number))
}

fn order(a: &str, b: &str) -> Ordering {
    key(a).cmp(&key(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(id: &str, median_ns: f64) -> Bench {
        let (low_ns, high_ns) = (median_ns, median_ns);
        Bench {
            id: id.into(),
            state: "warm".into(),
            packed_bytes: 1,
            fp16_bytes: 1,
            median_ns,
            low_ns,
            high_ns,
        }
    }

    #[test]
    fn rounds_become_a_median_and_a_spread() {
        let rounds = [vec![bench("a", 10.0)], vec![bench("a", 30.0)], vec![bench("a", 12.0)]];
        let [merged] = &Bench::over_rounds(&rounds).unwrap()[..] else { panic!("one bench") };
        assert_eq!((merged.median_ns, merged.low_ns, merged.high_ns), (12.0, 10.0, 30.0));
        assert!(Bench::over_rounds(&[vec![bench("a", 1.0)], vec![bench("b", 1.0)]]).is_err());
    }

    #[test]
    fn the_newest_name_is_last_and_other_files_do_not_count() {
        let mut names = ["2026-11-25-10.json", "2026-11-25.json", "2026-11-25-2.json", "2026-02-01.json"];
        names.sort_by(|a, b| order(a, b));
        assert_eq!(names, ["2026-02-01.json", "2026-11-25.json", "2026-11-25-2.json", "2026-11-25-10.json"]);
        for other in ["peers-2026-11-25.json", "2026-11-25.txt", "2026-11-25-x.json", "notes.json"] {
            assert_eq!(key(other), None, "{other}");
        }
    }
}

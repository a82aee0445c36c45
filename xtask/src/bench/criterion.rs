//! Criterion's files and the benches' own lines, put together.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use super::record::Bench;

/// State of the caches, packed bytes, fp16 bytes.
type Work = (String, u64, u64);

/// Every bench under `home` that the file `work` knows.
pub fn collect(home: &Path, work: &Path) -> Result<Vec<Bench>> {
    let text = fs::read_to_string(work).with_context(|| format!("reading {}", work.display()))?;
    let work = work_by_id(&text)?;
    let mut folders = Vec::new();
    find(home, &mut folders)?;
    let mut benches = Vec::new();
    for folder in folders {
        let about = json(&folder.join("benchmark.json"))?;
        let id = about["full_id"].as_str().context("benchmark.json without full_id")?;
        // The time of a whole round is no operation's: what belongs to whom stands in a file of its own.
        if id.contains("-turns/") {
            continue;
        }
        let (state, packed_bytes, fp16_bytes) =
            work.get(id).cloned().with_context(|| format!("{id} has not told what it works on"))?;
        let median = &json(&folder.join("estimates.json"))?["median"];
        let figure =
            |value: &Value| value.as_f64().with_context(|| format!("{id}: no median in estimates.json"));
        let interval = &median["confidence_interval"];
        benches.push(Bench {
            id: id.to_owned(),
            state,
            packed_bytes,
            fp16_bytes,
            median_ns: figure(&median["point_estimate"])?,
            low_ns: figure(&interval["lower_bound"])?,
            high_ns: figure(&interval["upper_bound"])?,
        });
    }
    benches.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(benches)
}

fn work_by_id(text: &str) -> Result<BTreeMap<String, Work>> {
    let line = |line: &str| {
        let mut words = line.split('\t');
        let mut word = || words.next().ok_or_else(|| anyhow!("a line on work is cut short: {line}"));
        let (id, state) = (word()?.to_owned(), word()?.to_owned());
        Ok((id, (state, word()?.parse()?, word()?.parse()?)))
    };
    text.lines().map(line).collect()
}

/// Folders with the newest figures of one bench, at any depth.
fn find(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.join("benchmark.json").is_file() && path.ends_with("new") {
            found.push(path);
        } else if path.is_dir() {
            find(&path, found)?;
        }
    }
    Ok(())
}

fn json(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_on_work_are_read_and_short_ones_refused() {
        let work = work_by_id("attend/warm/4x/512\twarm\t100\t400\n").unwrap();
        assert_eq!(work["attend/warm/4x/512"], ("warm".to_owned(), 100, 400));
        assert!(work_by_id("attend\twarm\t100\n").is_err());
    }
}

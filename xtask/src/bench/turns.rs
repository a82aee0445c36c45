//! What was timed in turns: contenders one after the other in every round of one bench, so that a machine that changes
//! its pace changes it for all of them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// One contender of one bench.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// `operation-turns/state/case`.
    pub id: String,
    /// Who.
    pub name: String,
    /// Median time of a call, the median of the rounds.
    pub median_ns: f64,
    /// Whose speed the next three are told against.
    pub against: String,
    /// How many times as fast in the same turns: the median of the rounds, the least and the greatest.
    pub speed: f64,
    pub speed_low: f64,
    pub speed_high: f64,
}

/// What the benches of one round wrote to the file `path`; nothing where none was run in turns.
pub fn collect(path: &Path) -> Result<Vec<Turn>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    text.lines().map(read).collect()
}

fn read(line: &str) -> Result<Turn> {
    let words: Vec<&str> = line.split('\t').collect();
    let [id, name, time, against, speed] = words[..] else {
        anyhow::bail!("a line on turns is cut short: {line}")
    };
    let speed = speed.parse()?;
    Ok(Turn {
        id: id.to_owned(),
        name: name.to_owned(),
        median_ns: time.parse()?,
        against: against.to_owned(),
        speed,
        speed_low: speed,
        speed_high: speed,
    })
}

/// One entry per contender of the rounds, all of which have the same ones.
pub fn over_rounds(rounds: &[Vec<Turn>]) -> Result<Vec<Turn>> {
    let mut merged: BTreeMap<(&str, &str), Vec<&Turn>> = BTreeMap::new();
    for turn in rounds.iter().flatten() {
        merged.entry((&turn.id, &turn.name)).or_default().push(turn);
    }
    let mut all = Vec::new();
    for ((id, name), turns) in merged {
        ensure!(turns.len() == rounds.len(), "{id} of {name} is not in every round");
        let sorted = |of: fn(&Turn) -> f64| {
            let mut values: Vec<f64> = turns.iter().map(|turn| of(turn)).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let (times, speeds) = (sorted(|turn| turn.median_ns), sorted(|turn| turn.speed));
        all.push(Turn {
            id: id.to_owned(),
            name: name.to_owned(),
            median_ns: times[times.len() / 2],
            against: turns[0].against.clone(),
            speed: speeds[speeds.len() / 2],
            speed_low: speeds[0],
            speed_high: speeds[speeds.len() - 1],
        });
    }
    Ok(all)
}

/// A line per contender.
pub fn table(turns: &[Turn]) -> String {
    let width = turns.iter().map(|turn| turn.id.len() + turn.name.len() + 1).max().unwrap_or(0);
    let mut out = String::new();
    for Turn { id, name, median_ns, against, speed, speed_low, speed_high } in turns {
        let _ = writeln!(
            out,
            "{:width$} {median_ns:>12.0} ns, {speed:.2}x as fast as {against} ({speed_low:.2} to {speed_high:.2})",
            format!("{id}/{name}"),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_become_a_median_and_its_extremes() {
        let round =
            |speed| vec![read(&format!("attend-turns/cold/512\ts4\t1000\tdense-f16\t{speed}")).unwrap()];
        let [turn] = &over_rounds(&[round(2.0), round(1.5), round(3.0)]).unwrap()[..] else { panic!("one") };
        assert_eq!((turn.speed, turn.speed_low, turn.speed_high), (2.0, 1.5, 3.0));
        assert!(over_rounds(&[round(2.0), Vec::new()]).is_err());
        assert!(read("attend-turns/cold/512\ts4\t1000\t2.0").is_err());
    }
}

//! Several records side by side.

use super::{Record, Run};

/// A record and what it is called beside others.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name of its file without the ending, or of its verb.
    pub label: String,
    /// The record.
    pub record: Record,
}

/// Records that are shown together, in the order given.
#[derive(Clone, Debug)]
pub struct Collection(Vec<Entry>);

impl Collection {
    /// Of records; labels that occur twice are numbered.
    pub fn new(mut entries: Vec<Entry>) -> Self {
        for i in 1..entries.len() {
            let same = entries[..i].iter().filter(|other| other.label == entries[i].label).count();
            if same > 0 {
                entries[i].label = format!("{} ({})", entries[i].label, same + 1);
            }
        }
        Self(entries)
    }

    /// Of one record.
    pub fn one(record: Record) -> Self {
        Self(vec![Entry { label: record.verb.clone(), record }])
    }

    /// The records.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// Whether there is more than one record.
    pub fn is_comparison(&self) -> bool {
        self.0.len() > 1
    }

    /// Every run under the name that tells it from the others.
    pub fn runs(&self) -> Vec<Run> {
        let named = |entry: &Entry, run: &Run| Run { name: self.name(entry, run), ..run.clone() };
        self.0.iter().flat_map(|entry| entry.record.runs.iter().map(move |run| named(entry, run))).collect()
    }

    /// Tokens of the longest run.
    pub fn longest(&self) -> usize {
        let runs = self.0.iter().flat_map(|entry| &entry.record.runs);
        runs.map(|run| run.context_tokens).max().unwrap_or(0)
    }

    /// Runs of the same cache, which belong on one line: its name, its colour, its runs.
    pub fn series(&self) -> Vec<(String, usize, Vec<Run>)> {
        let mut series: Vec<(String, usize, Vec<Run>)> = Vec::new();
        let mut next_colour = 2;
        for run in self.runs() {
            if let Some((_, _, runs)) = series.iter_mut().find(|(name, ..)| *name == run.name) {
                runs.push(run);
                continue;
            }
            let colour = match (run.policy.is_some(), run.name.starts_with("dense-f32")) {
                (false, true) => 0,
                (false, false) => 1,
                (true, _) => {
                    next_colour += 1;
                    2 + (next_colour - 3) % 6
                }
            };
            series.push((run.name.clone(), colour, vec![run]));
        }
        series
    }

    /// The cache's name, with the record's where two records have a run of that name at the same length.
    fn name(&self, entry: &Entry, run: &Run) -> String {
        let same = |other: &&Run| other.name == run.name && other.context_tokens == run.context_tokens;
        let n = self.0.iter().flat_map(|entry| &entry.record.runs).filter(same).count();
        let is_other_model = self.0.iter().any(|other| other.record.model.name != entry.record.model.name);
        if n > 1 || is_other_model { format!("{} ({})", run.name, entry.label) } else { run.name.clone() }
    }
}

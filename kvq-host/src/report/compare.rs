//! What changed from one record to another.

use super::collection::Collection;
use super::{Run, table};

/// A figure that is compared: its name, and where it stands in a run.
type Figure = (&'static str, fn(&Run) -> Option<f64>);

const FIGURES: [Figure; 7] = [
    ("bytes", |run| Some(run.kv_bytes as f64)),
    ("prefill", |run| run.prefill_tokens_per_s),
    ("decode", |run| run.decode_tokens_per_s),
    ("attention", |run| run.attention_ms_per_token),
    ("perplexity", |run| run.perplexity),
    ("KL div.", |run| run.kld_mean),
    ("recall", |run| run.recall_kld_mean),
];

/// Relative changes of runs of the same name and length against the first record, as a table; nothing where
/// there are no two such runs.
pub fn changes(collection: &Collection) -> String {
    let Some((first, others)) = collection.entries().split_first() else { return String::new() };
    let mut rows = Vec::new();
    for other in others {
        for run in &other.record.runs {
            let same = |old: &&Run| old.name == run.name && old.context_tokens == run.context_tokens;
            if let Some(old) = first.record.runs.iter().find(same) {
                let cells = FIGURES.iter().map(|(_, figure)| change(figure(old), figure(run)));
                let head = [format!("{} ({})", run.name, other.label), run.context_tokens.to_string()];
                rows.push(head.into_iter().chain(cells).collect::<Vec<String>>());
            }
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let headings = ["cache", "context"].into_iter().chain(FIGURES.iter().map(|(name, _)| *name));
    let body = table::with_headings(headings.map(str::to_owned).collect(), rows);
    format!("\nChanges against {}\n{body}", first.label)
}

/// `new / old − 1`, percent; a dash where one of them was not measured.
fn change(old: Option<f64>, new: Option<f64>) -> String {
    match (old, new) {
        (Some(old), Some(new)) if old > 0.0 => format!("{:+.1}%", 100.0 * (new / old - 1.0)),
        _ => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_relative_and_gaps_are_dashes() {
        assert_eq!(change(Some(2.0), Some(3.0)), "+50.0%");
        assert_eq!(change(Some(2.0), Some(1.0)), "-50.0%");
        assert_eq!(change(None, Some(1.0)), "-");
        assert_eq!(change(Some(0.0), Some(1.0)), "-");
    }
}

//! `report`: records side by side.

use std::path::PathBuf;

use anyhow::Result;

use crate::report::collection::{Collection, Entry};
use crate::report::compare::changes;
use crate::report::table::{Detail, legend, machine_line, model_line, table};
use crate::report::{Record, html};

/// Flags of `report`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: kvq bench --json a.json && kvq eval --json b.json && \
                        kvq report a.json b.json --html both.html")]
pub struct Args {
    /// Records that `bench --json` or `eval --json` wrote; changes are against the first.
    #[arg(value_name = "FILE", required = true)]
    records: Vec<PathBuf>,
    /// Write them as one HTML page with charts.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// A file that is no record, or one that cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let entry = |path: &PathBuf| {
        let label = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Entry { label, record: Record::read_json(path)? })
    };
    let collection = Collection::new(args.records.iter().map(entry).collect::<Result<_>>()?);
    for entry in collection.entries() {
        println!("{}: {}; {}", entry.label, model_line(&entry.record), machine_line(&entry.record));
    }
    let runs = collection.runs();
    println!("\n{}{}", table(&runs, Detail::Full), legend(&runs, Detail::Full));
    print!("{}", changes(&collection));
    args.html.as_deref().map_or(Ok(()), |path| html::write(path, &collection))
}

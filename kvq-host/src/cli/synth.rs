//! `synth`: bytes and attention error of caches on synthetic keys and values; no model is needed.

use anyhow::{Context, Result};
use serde::Serialize;

use super::shared::{self, BackendChoice, UsageError};
use crate::policy::preset_names;
use crate::report::table::{Detail, bytes, legend, table};
use crate::report::{Machine, Run};
use crate::synth::{self, WORKLOADS, Workload};

/// Flags of `synth`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: kvq synth --workload tiny-firmware --policy 4x")]
pub struct Args {
    /// Workload, may be given several times [default: every one]: long-context, tool-agent, tiny-firmware.
    #[arg(long, value_name = "NAME", value_parser = workload)]
    workload: Vec<Workload>,
    /// Preset or .toml file, may be given several times [default: every preset].
    /// `6x` gives old keys 2 bits, which loses what lies far back.
    #[arg(long, value_name = "PRESET|FILE")]
    policy: Vec<String>,
    /// Seed of keys, values and queries.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Kernels of packed caches.
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    backend: BackendChoice,
    /// Write the figures as JSON to this file, or to standard output for `-`.
    #[arg(long, value_name = "FILE|-")]
    json: Option<String>,
}

/// The figures as JSON.
#[derive(Serialize)]
struct SynthRecord {
    kvq_version: &'static str,
    command_line: Vec<String>,
    machine: Machine,
    backend: &'static str,
    seed: u64,
    workloads: Vec<WorkloadRecord>,
}

#[derive(Serialize)]
struct WorkloadRecord {
    name: &'static str,
    description: &'static str,
    n_layers: usize,
    n_kv_heads: usize,
    n_heads: usize,
    head_dim: usize,
    runs: Vec<Run>,
}

fn workload(name: &str) -> Result<Workload, String> {
    let names = || WORKLOADS.map(|workload| workload.name).join(", ");
    let found = WORKLOADS.into_iter().find(|workload| workload.name == name);
    found.ok_or_else(|| format!("allowed are {}", names()))
}

/// Runs the verb.
///
/// # Errors
/// [`UsageError`], a policy that cannot serve a shape, or a file that cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let presets = || preset_names().map(str::to_owned).collect();
    let policies = shared::policies(&if args.policy.is_empty() { presets() } else { args.policy.clone() })?;
    let backend = args.backend.backend()?;
    let chosen = if args.workload.is_empty() { WORKLOADS.to_vec() } else { args.workload.clone() };
    let is_shown = args.json.as_deref() != Some("-");
    let mut workloads = Vec::new();
    for workload in &chosen {
        let shape = workload.shape;
        let found = synth::run(workload, &policies, backend, args.seed)
            .map_err(|error| UsageError(format!("--policy, {}: {error:#}", workload.name)))?;
        let runs: Vec<Run> = found.iter().map(|found| to_run(found, workload)).collect();
        if is_shown {
            println!(
                "{}: {}\n  {} layers, {} KV heads of {}; {} tokens, in fp16 {}\n\n{}",
                workload.name,
                workload.description,
                shape.n_layers,
                shape.n_kv_heads,
                shape.key_head_dim,
                workload.end_tokens(),
                bytes(workload.end_tokens() * shape.fp16_bytes_per_token()),
                table(&runs, Detail::Full)
            );
        }
        workloads.push(WorkloadRecord {
            name: workload.name,
            description: workload.description,
            n_layers: shape.n_layers,
            n_kv_heads: shape.n_kv_heads,
            n_heads: workload.n_heads,
            head_dim: shape.key_head_dim,
            runs,
        });
    }
    if is_shown {
        println!("{}", legend(&workloads[0].runs, Detail::Full));
    }
    let Some(target) = &args.json else { return Ok(()) };
    let record = SynthRecord {
        kvq_version: env!("CARGO_PKG_VERSION"),
        command_line: std::env::args().collect(),
        machine: Machine::here(),
        backend: backend.name(),
        seed: args.seed,
        workloads,
    };
    let json = serde_json::to_string_pretty(&record)? + "\n";
    if !is_shown {
        print!("{json}");
        return Ok(());
    }
    std::fs::write(target, json).with_context(|| format!("--json {target}: cannot write the file"))
}

fn to_run(found: &synth::Found, workload: &Workload) -> Run {
    let mut run = Run::filled(&found.cache, &found.held, workload.shape.fp16_bytes_per_token());
    // The first cache is what the others are compared with.
    run.attention_error = (run.name != "dense-f32").then_some(found.attention_error);
    run
}

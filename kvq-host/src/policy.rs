//! Policies by name or from a TOML file.
//!
//! ```toml
//! base = "4x"                 # optional: a preset whose keys the rest of the file replaces
//! n_sink = 4
//! recent_len = 64
//! span_len = 64
//! key_tiers = [{ layout = "s4" }, { layout = "s3", from_age = 512 }]
//! value_tiers = [{ layout = "s4" }, { layout = "s3" }]      # no from_age: under pressure only
//! ladder = [{ side = "value", to = 1 }]
//! edge_layers = { first = 1, last = 1 }                     # they stay in their first tiers
//! compression = 4.0           # absent: limited by bytes
//! when_full = "demote"        # or "error", "evict"
//! window_len = 0
//! ```

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use kvq_codec::{Budget, EdgeLayers, Layout, MAX_TIERS, Policy, Side, Step, Tier, WhenFull};
use serde::Deserialize;

/// A policy and what to call it in reports.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedPolicy {
    /// Preset name, or the file's name without its ending.
    pub name: String,
    /// The policy.
    pub policy: Policy,
}

/// Names of the presets, in the order of their compression.
pub fn preset_names() -> impl Iterator<Item = &'static str> {
    Policy::PRESETS.iter().map(|(name, _)| *name)
}

/// The policy that `spec` names: a preset, or a path to a TOML file.
///
/// # Errors
/// An unknown name, an unreadable file, an unknown key or value, or a policy that contradicts itself.
///
/// # Examples
/// ```
/// use kvq_host::policy;
///
/// assert_eq!(policy::load("4x")?.policy, kvq_host::codec::Policy::FOUR_X);
/// assert!(policy::load("7x").unwrap_err().to_string().contains("8bit, 4x, 5x, 6x"));
/// # Ok::<(), anyhow::Error>(())
/// ```
pub fn load(spec: &str) -> Result<NamedPolicy> {
    if let Some(policy) = preset(spec) {
        return Ok(NamedPolicy { name: spec.to_owned(), policy });
    }
    let path = Path::new(spec);
    ensure!(
        path.extension().is_some_and(|e| e == "toml"),
        "policy '{spec}' is neither a preset ({}) nor a .toml file",
        preset_names().collect::<Vec<_>>().join(", ")
    );
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read policy file {spec}"))?;
    let policy = parse(&text).with_context(|| format!("policy file {spec}"))?;
    let name = path.file_stem().map_or_else(|| spec.to_owned(), |s| s.to_string_lossy().into_owned());
    Ok(NamedPolicy { name, policy })
}

fn preset(name: &str) -> Option<Policy> {
    Policy::PRESETS.iter().find(|(n, _)| *n == name).map(|(_, policy)| *policy)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    base: Option<String>,
    n_sink: Option<u16>,
    recent_len: Option<u16>,
    span_len: Option<u16>,
    key_tiers: Option<Vec<TierEntry>>,
    value_tiers: Option<Vec<TierEntry>>,
    ladder: Option<Vec<StepEntry>>,
    edge_layers: Option<EdgeEntry>,
    compression: Option<f64>,
    when_full: Option<String>,
    window_len: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TierEntry {
    layout: String,
    from_age: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepEntry {
    side: String,
    to: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EdgeEntry {
    #[serde(default)]
    first: u8,
    #[serde(default)]
    last: u8,
}

/// A policy from the text of a TOML file.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str) -> Result<Policy> {
    let file: PolicyFile = toml::from_str(text)?;
    let mut policy = match &file.base {
        Some(name) => preset(name).with_context(|| format!("base '{name}' is not a preset"))?,
        None => {
            ensure!(
                file.key_tiers.is_some() && file.value_tiers.is_some(),
                "without a base, key_tiers and value_tiers are needed"
            );
            Policy { budget: Budget::Bytes, ladder: [None; 6], ..Policy::FOUR_X }
        }
    };
    if file.base.is_some()
        && (file.key_tiers.is_some() || file.value_tiers.is_some())
        && file.ladder.is_none()
    {
        // The base's ladder speaks of the base's tiers.
        policy.ladder = [None; 6];
    }
    policy.n_sink = file.n_sink.unwrap_or(policy.n_sink);
    policy.recent_len = file.recent_len.unwrap_or(policy.recent_len);
    policy.span_len = file.span_len.unwrap_or(policy.span_len);
    policy.window_len = file.window_len.unwrap_or(policy.window_len);
    if let Some(tiers) = &file.key_tiers {
        policy.key_tiers = tiers_of(tiers, "key_tiers")?;
    }
    if let Some(tiers) = &file.value_tiers {
        policy.value_tiers = tiers_of(tiers, "value_tiers")?;
    }
    if let Some(steps) = &file.ladder {
        policy.ladder = ladder_of(steps)?;
    }
    if let Some(EdgeEntry { first, last }) = file.edge_layers {
        policy.edge_layers = EdgeLayers { first, last };
    }
    if let Some(compression) = file.compression {
        ensure!((1.0..=8.0).contains(&compression), "compression = {compression}: allowed are 1.0 to 8.0");
        policy.budget = Budget::Compression((compression * 100.0).round() as u16);
    }
    match file.when_full.as_deref() {
        None => {}
        Some("error") => policy.when_full = WhenFull::Error,
        Some("demote") => policy.when_full = WhenFull::Demote,
        Some("evict") => policy.when_full = WhenFull::Evict,
        Some(other) => bail!("when_full = \"{other}\": allowed are error, demote, evict"),
    }
    policy.check().map_err(|e| anyhow!("{e}"))?;
    check_effect(&policy)?;
    Ok(policy)
}

/// Refuses what the codec takes and nothing would ever come of.
fn check_effect(policy: &Policy) -> Result<()> {
    for (side, tiers) in [(Side::Key, &policy.key_tiers), (Side::Value, &policy.value_tiers)] {
        let name = side_name(side);
        for (i, tier) in tiers.iter().enumerate().skip(1) {
            let Some(tier) = tier else { continue };
            let has_step =
                policy.ladder.iter().flatten().any(|step| step.side == side && usize::from(step.to) == i);
            ensure!(
                has_step || tier.from_age != Tier::UNDER_PRESSURE,
                "{name}_tiers: tier {i} ({}) is never entered: give it a from_age, or the ladder a step \
                 {{ side = \"{name}\", to = {i} }}",
                tier.layout.name()
            );
        }
    }
    if let Budget::Compression(hundredths) = policy.budget {
        ensure!(
            policy.ladder[0].is_some(),
            "compression = {:.2}: the ladder has no step that could keep it; give it one, or leave compression out",
            f64::from(hundredths) / 100.0
        );
    }
    let EdgeLayers { first, last } = policy.edge_layers;
    ensure!(
        policy.edge_layers == EdgeLayers::NONE
            || policy.key_tiers[1].is_some()
            || policy.value_tiers[1].is_some(),
        "edge_layers = {{ first = {first}, last = {last} }}: keys and values have one tier each, which all layers \
         stay in; give them others, or leave edge_layers out"
    );
    Ok(())
}

/// A side's name in files and records.
pub const fn side_name(side: Side) -> &'static str {
    match side {
        Side::Key => "key",
        Side::Value => "value",
    }
}

/// The name of a `when_full` in files and records.
pub const fn when_full_name(when_full: WhenFull) -> &'static str {
    match when_full {
        WhenFull::Error => "error",
        WhenFull::Demote => "demote",
        WhenFull::Evict => "evict",
    }
}

/// The text of a file that [`parse`] makes `policy` of.
pub fn to_toml(policy: &Policy) -> String {
    let tiers = |tiers: &[Option<Tier>]| -> String {
        let entry = |tier: &Tier| match tier.from_age {
            0 | Tier::UNDER_PRESSURE => format!("{{ layout = \"{}\" }}", tier.layout.name()),
            age => format!("{{ layout = \"{}\", from_age = {age} }}", tier.layout.name()),
        };
        tiers.iter().flatten().map(entry).collect::<Vec<_>>().join(", ")
    };
    let step = |step: &Step| format!("{{ side = \"{}\", to = {} }}", side_name(step.side), step.to);
    let steps: Vec<String> = policy.ladder.iter().flatten().map(step).collect();
    let compression = match policy.budget {
        Budget::Compression(hundredths) => format!("compression = {:.2}\n", f64::from(hundredths) / 100.0),
        Budget::Bytes => String::new(),
    };
    let when_full = when_full_name(policy.when_full);
    format!(
        "n_sink = {}\nrecent_len = {}\nspan_len = {}\nkey_tiers = [{}]\nvalue_tiers = [{}]\nladder = [{}]\n\
         edge_layers = {{ first = {}, last = {} }}\n{compression}when_full = \"{when_full}\"\nwindow_len = {}\n",
        policy.n_sink,
        policy.recent_len,
        policy.span_len,
        tiers(&policy.key_tiers),
        tiers(&policy.value_tiers),
        steps.join(", "),
        policy.edge_layers.first,
        policy.edge_layers.last,
        policy.window_len
    )
}

fn tiers_of(entries: &[TierEntry], key: &str) -> Result<[Option<Tier>; MAX_TIERS]> {
    ensure!(entries.len() <= MAX_TIERS, "{key}: {} tiers, at most {MAX_TIERS}", entries.len());
    let mut tiers = [None; MAX_TIERS];
    for (i, (slot, entry)) in tiers.iter_mut().zip(entries).enumerate() {
        let layout = Layout::ALL.into_iter().find(|l| l.name() == entry.layout).with_context(|| {
            let names: Vec<_> = Layout::ALL.iter().map(|l| l.name()).collect();
            format!("{key}: layout \"{}\": allowed are {}", entry.layout, names.join(", "))
        })?;
        let from_age = entry.from_age.unwrap_or(if i == 0 { 0 } else { Tier::UNDER_PRESSURE });
        *slot = Some(Tier { layout, from_age });
    }
    Ok(tiers)
}

fn ladder_of(entries: &[StepEntry]) -> Result<[Option<Step>; 6]> {
    ensure!(entries.len() <= 6, "ladder: {} steps, at most 6", entries.len());
    let mut ladder = [None; 6];
    for (slot, entry) in ladder.iter_mut().zip(entries) {
        let side = match entry.side.as_str() {
            "key" => Side::Key,
            "value" => Side::Value,
            other => bail!("ladder: side \"{other}\": allowed are key, value"),
        };
        *slot = Some(Step { side, to: entry.to });
    }
    Ok(ladder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_takes_effect() {
        let policy = parse(
            "n_sink = 7\nrecent_len = 16\nspan_len = 16\nwindow_len = 99\ncompression = 3.5\nwhen_full = 'demote'\n\
             key_tiers = [{ layout = 's4' }, { layout = 's3', from_age = 512 }]\n\
             value_tiers = [{ layout = 'q8' }, { layout = 's2' }]\nladder = [{ side = 'value', to = 1 }]\n\
             edge_layers = { first = 2, last = 1 }",
        )
        .unwrap();
        assert_eq!((policy.n_sink, policy.recent_len, policy.span_len, policy.window_len), (7, 16, 16, 99));
        assert_eq!(policy.budget, Budget::Compression(350));
        assert_eq!(policy.when_full, WhenFull::Demote);
        assert_eq!(policy.key_tiers[1], Some(Tier::from_age(Layout::S3, 512)));
        assert_eq!(policy.value_tiers[1], Some(Tier::under_pressure(Layout::S2)));
        assert_eq!(policy.ladder[0], Some(Step { side: Side::Value, to: 1 }));
        assert_eq!(policy.edge_layers, EdgeLayers { first: 2, last: 1 });
    }

    #[test]
    fn what_is_written_is_read_again() {
        let aged = "key_tiers = [{ layout = 'q8' }, { layout = 's3', from_age = 512 }]\n\
                    value_tiers = [{ layout = 's4' }]\nwindow_len = 9\nwhen_full = 'evict'\n\
                    edge_layers = { last = 3 }";
        let presets = Policy::PRESETS.map(|(_, policy)| policy);
        for policy in presets.into_iter().chain([parse(aged).unwrap()]) {
            assert_eq!(parse(&to_toml(&policy)).unwrap(), policy, "{}", to_toml(&policy));
        }
    }

    #[test]
    fn a_base_is_kept_but_for_what_the_file_says() {
        let policy = parse("base = '5x'\nrecent_len = 128").unwrap();
        assert_eq!(policy, Policy { recent_len: 128, ..Policy::FIVE_X });
    }

    #[test]
    fn bad_values_are_named() {
        for (text, expected) in [
            ("base = '9x'", "9x"),
            ("key_tiers = [{ layout = 'q5' }]\nvalue_tiers = [{ layout = 's4' }]", "q5"),
            ("base = '4x'\ncompression = 99.0", "99"),
            ("base = '4x'\nwhen_full = 'panic'", "panic"),
            ("base = '4x'\nspan_len = 48", "span_len"),
            ("base = '4x'\nbits = 3", "bits"),
            ("base = '4x'\nedge_layers = { middle = 3 }", "middle"),
            ("", "key_tiers"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn unknown_names_list_the_presets() {
        let error = load("7x").unwrap_err().to_string();
        assert!(error.contains("8bit, 4x, 5x, 6x"), "{error}");
    }
}

//! This record beside the last one.

use std::fmt::Write;

use super::record::{Bench, Record};

/// No measurement on a desktop or a shared machine is better than this share.
const LEAST_NOISE: f64 = 0.05;

/// Ratios bench by bench. A difference is named only where it exceeds the noise of both records together.
pub fn report(last: &Record, last_name: &str, now: &Record) -> String {
    let mut out = format!("compared with {last_name} (commit {:.10}):\n", last.machine.commit);
    if last.machine.cpu != now.machine.cpu || last.machine.logical_cpus != now.machine.logical_cpus {
        out.push_str("note: that was another machine; the ratios say little about the code\n");
    }
    if last.quick != now.quick {
        out.push_str("note: one of the two measured for a moment only\n");
    }
    for load in [last.load_before, now.load_before].into_iter().flatten().filter(|load| *load > 0.5) {
        let _ = writeln!(out, "note: one of the two began on a machine with a load of {load}");
    }
    let pairs: Vec<(&Bench, &Bench)> = now
        .benches
        .iter()
        .filter_map(|bench| Some((last.benches.iter().find(|other| other.id == bench.id)?, bench)))
        .collect();
    if let Some(ratio) = median_ratio(&pairs) {
        let _ =
            writeln!(out, "copies and reads of the machine itself: {ratio:.2}x of the last time (median)");
    }
    for (old, new) in pairs.iter().filter(|(_, new)| !new.is_limit()) {
        let verdict = match verdict(old, new) {
            Some(word) => format!("  {word}"),
            None => String::new(),
        };
        let _ =
            writeln!(out, "  {:40} {:5.2}x of the last time{verdict}", new.id, new.median_ns / old.median_ns);
    }
    out
}

/// `slower` or `faster`, where the difference is more than noise.
fn verdict(old: &Bench, new: &Bench) -> Option<&'static str> {
    let noise = (old.noise() + new.noise()).max(LEAST_NOISE);
    let ratio = new.median_ns / old.median_ns;
    if ratio > 1.0 + noise {
        Some("SLOWER")
    } else if ratio < 1.0 / (1.0 + noise) {
        Some("faster")
    } else {
        None
    }
}

/// How the machine's own limits moved: what every other ratio has in it.
fn median_ratio(pairs: &[(&Bench, &Bench)]) -> Option<f64> {
    let mut ratios: Vec<f64> = pairs
        .iter()
        .filter(|(_, new)| new.is_limit())
        .map(|(old, new)| new.median_ns / old.median_ns)
        .collect();
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(id: &str, median_ns: f64, spread: f64) -> Bench {
        Bench {
            id: id.into(),
            state: "warm".into(),
            packed_bytes: 1,
            fp16_bytes: 1,
            median_ns,
            low_ns: median_ns * (1.0 - spread),
            high_ns: median_ns * (1.0 + spread),
        }
    }

    #[test]
    fn only_what_exceeds_the_noise_is_named() {
        let old = bench("a", 100.0, 0.0);
        assert_eq!(verdict(&old, &bench("a", 104.0, 0.0)), None);
        assert_eq!(verdict(&old, &bench("a", 106.0, 0.0)), Some("SLOWER"));
        assert_eq!(verdict(&old, &bench("a", 90.0, 0.0)), Some("faster"));
        assert_eq!(verdict(&old, &bench("a", 106.0, 0.1)), None);
    }

    #[test]
    fn the_limits_say_how_the_machine_moved() {
        let (old, new) = (bench("a-limit/x", 10.0, 0.0), bench("a-limit/x", 20.0, 0.0));
        let (op_old, op_new) = (bench("a/x", 10.0, 0.0), bench("a/x", 70.0, 0.0));
        assert_eq!(median_ratio(&[(&old, &new), (&op_old, &op_new)]), Some(2.0));
    }
}

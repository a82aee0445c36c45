//! The bodies of the fuzz targets: over their committed corpora, and over random operations of their own.

#![cfg(all(feature = "trellis", feature = "low-bits", feature = "demote"))]

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use fuzz::support::Random;
use std::path::PathBuf;

/// Runs `body` on every file of a target's corpus.
fn replay(target: &str, body: impl Fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions").join(target);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    if cfg!(miri) {
        paths.retain(|path| path.metadata().unwrap().len() < 200);
        paths.truncate(1);
    }
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    for path in paths {
        println!("{}", path.display());
        body(&std::fs::read(&path).unwrap());
    }
}

#[test]
fn restore() {
    replay("restore", fuzz::restore::run);
}

#[test]
fn dequantize() {
    replay("dequantize", fuzz::dequantize::run);
}

#[test]
fn operations() {
    replay("operations", |data| assert!(fuzz::operations::run(data).worst <= 1.0));
}

#[test]
fn backends() {
    replay("backends", fuzz::backends::run);
}

/// Operations that follow one another by chance, from seeds that are always the same.
#[test]
fn ten_thousand_random_sequences_equal_a_fresh_cache_or_stay_within_the_bound() {
    let n_sequences = if cfg!(miri) { 1 } else { 10_000 };
    let mut random = Random::new(20_26);
    let (mut exact, mut exact_packed, mut bounded, mut worst) = (0, 0, 0, 0.0f64);
    for _ in 0..n_sequences {
        let n_operations = 4 + random.next() as usize % if cfg!(miri) { 2 } else { 12 };
        let data: Vec<u8> = (0..3 + 2 * n_operations).map(|_| (random.next() >> 32) as u8).collect();
        let seen = fuzz::operations::run(&data);
        exact += seen.exact;
        exact_packed += seen.exact_packed;
        bounded += seen.bounded;
        worst = worst.max(seen.worst);
    }
    println!(
        "{exact} exact, {exact_packed} of them with packed spans; {bounded} within {worst:.3} of the bound"
    );
    let enough = exact > n_sequences && exact_packed > n_sequences / 40 && bounded > 2 * n_sequences;
    assert!(enough || cfg!(miri));
}

//! The reader in `docs/` restores the same vectors from the golden snapshot as the cache holds.

use super::*;
use crate::bytes::{get_i16, get_u8, get_u32};
use crate::cache::KvCache;
use crate::cache::side_plan::SidePlan;
use crate::kernel::Backend;
use crate::math::exp2_8;
use crate::pack::{or_plane, plane_row_bytes};
use crate::quantize::precise::ZERO;
use crate::quantize::span::block_exponent;
use crate::quantize::trellis::for_each_level;
use crate::rotate::Rotation;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::string::String;
use std::vec::Vec;
use std::{println, vec};

/// Vectors by layer, side (0 keys), head and position.
type Vectors = BTreeMap<(usize, usize, usize, usize), Vec<f64>>;

/// The difference that rounding may make, relative to the largest magnitude of a vector.
const TOLERANCE: f64 = 1e-6;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The levels of token `t` in `block`, whose unit ids lie in `ids`.
fn levels(
    cache: &KvCache<'_>,
    side: &SidePlan,
    layout: Layout,
    ids: &[u8],
    block: usize,
    t: usize,
) -> Vec<i8> {
    let n = side.block_values(block);
    let (mut codes, mut shift, mut first) = (vec![0i8; n], 0, 0);
    for &width in layout.planes() {
        let (unit, place) = side.split_token(width, t);
        let unit =
            super::super::storage::unit(&cache.plan, cache.storage.bytes(), get_u32(ids, 4 * (first + unit)));
        let row_bytes = plane_row_bytes(width, n);
        let at = side.block_offset(width, block) + place * row_bytes;
        or_plane(width, shift, slice(unit, at, row_bytes), &mut codes);
        first += side.plane_units(width, cache.plan.span_len);
        shift += u32::from(width);
    }
    level_of(layout, codes)
}

fn level_of(layout: Layout, codes: Vec<i8>) -> Vec<i8> {
    if layout == Layout::Q8 {
        return codes;
    }
    let codes: Vec<u8> = codes.into_iter().map(|c| c as u8).collect();
    let mut out = vec![0; codes.len()];
    if layout.is_trellis() {
        for_each_level(layout.codewords(), layout.code_bits(), &codes, |i, level| out[i] = level);
    } else {
        out.iter_mut().zip(&codes).for_each(|(o, &c)| *o = layout.codewords()[usize::from(c)]);
    }
    out
}

fn scaled(levels: &[i8], exponent: Option<i32>) -> Vec<f32> {
    let scale = exponent.map_or(0.0, exp2_8);
    levels.iter().map(|&l| f32::from(l) * scale).collect()
}

fn precise(e: i16) -> Option<i32> {
    (e != ZERO).then_some(i32::from(e))
}

/// Everything that a cache holds, restored.
fn dequantize(cache: &KvCache<'_>) -> Vectors {
    let (plan, mut out) = (&cache.plan, Vectors::new());
    for layer in 0..plan.shape.n_layers {
        let state = cache.layer(layer);
        let bytes = super::super::storage::layer(plan, cache.storage.bytes(), layer);
        for (index, side) in [&plan.key, &plan.value].into_iter().enumerate() {
            let mut put = |pos: usize, block: usize, mut row: Vec<f32>| {
                for (i, vector) in row.chunks_mut(side.head_dim).enumerate() {
                    Rotation::new(side.head_dim).inverse(vector);
                    let vector = vector.iter().map(|&v| f64::from(v)).collect();
                    out.insert((layer, index, block * side.heads_per_block + i, pos), vector);
                }
            };
            for block in 0..side.n_blocks {
                let n = side.block_values(block);
                for t in 0..state.n_sink {
                    let e = get_i16(bytes, side.sink_exponents + 2 * (t * side.n_blocks + block));
                    let row = slice(bytes, side.sink_row(plan.n_sink, block) + t * n, n);
                    let row: Vec<i8> = row.iter().map(|&c| c as i8).collect();
                    put(t, block, scaled(&row, precise(e)));
                }
                for t in 0..state.n_hot {
                    let e = get_i16(bytes, side.hot_exponents + 2 * (t * side.n_blocks + block));
                    let row = levels(cache, side, Layout::Q8, &bytes[side.hot_ids..], block, t);
                    put(state.hot_start() + t, block, scaled(&row, precise(e)));
                }
                let mut at = state.head;
                while at != NONE {
                    let (record, head) = (cache.record(at), SpanHead::read(cache.record(at)));
                    let layout = cache.span_layouts([head.key_tier, head.value_tier])[index];
                    let mut center = vec![0.0; n];
                    if index == 0 && layout.is_centered() {
                        let full = plane_row_bytes(4, side.heads_per_block * side.head_dim);
                        let row = slice(record, side.center_rows + block * full, plane_row_bytes(4, n));
                        let mut codes = vec![0; n];
                        or_plane(4, 0, row, &mut codes);
                        let e = get_i16(record, side.center_exponents + 2 * block);
                        center = scaled(&level_of(Layout::S4, codes), precise(e));
                    }
                    let base = get_i16(record, side.bases + 2 * block);
                    for t in 0..head.count {
                        let byte = get_u8(record, side.scales + block * plan.span_len + t);
                        let row = levels(cache, side, layout, &record[side.ids..], block, t);
                        let row = scaled(&row, block_exponent(base, byte));
                        put(head.start + t, block, row.iter().zip(&center).map(|(a, b)| a + b).collect());
                    }
                    at = head.next;
                }
            }
        }
    }
    out
}

/// What the reader prints.
fn parse(text: &str) -> Vectors {
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |i: usize| words[i].parse().unwrap();
        let values = words[4..].iter().map(|v| v.parse().unwrap()).collect();
        ((number(0), usize::from(words[1] == "v"), number(2), number(3)), values)
    };
    text.lines().map(line).collect()
}

#[test]
#[ignore = "needs python3: cargo xtask test runs it"]
fn the_reader_in_docs_restores_what_the_cache_holds() {
    let file = folder().join("tests/data/snapshot.bin");
    let snapshot = std::fs::read(&file).unwrap();
    let info = SnapshotInfo::read(&snapshot).unwrap();
    let mut memory = vec![0; 60_000];
    let mut cache = KvCache::new(info.shape, info.policy, Backend::SCALAR, &mut memory).unwrap();
    cache.restore(&snapshot).unwrap();
    let own = dequantize(&cache);
    assert_eq!(own.len(), 2 * info.shape.n_layers * info.shape.n_kv_heads * info.len);

    let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let reader = folder().join("../docs/read_snapshot.py");
    let output = Command::new(python).arg(reader).arg(file).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let read = parse(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(read.len(), own.len());
    let mut worst = 0.0f64;
    for ((place, own), (other, read)) in own.iter().zip(&read) {
        assert_eq!(place, other);
        assert_eq!(own.len(), read.len());
        let peak = own.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        for (a, b) in own.iter().zip(read) {
            assert!((a - b).abs() <= TOLERANCE * peak, "{place:?}: {a} {b}");
            worst = worst.max((a - b).abs() / peak.max(1e-30));
        }
    }
    println!("{} vectors, largest difference {worst:.1e} of a vector's peak", own.len());
}

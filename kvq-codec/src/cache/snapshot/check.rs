//! Everything that is checked before a restore changes anything.
//!
//! The numbers of a snapshot are checked to be such as an append can have stored, because the arithmetic of
//! later demotions counts on it; the codes may be any, but those of width 8 are never -128.

use super::header::{Header, check_crc};
use super::size::{CRC_BYTES, LAYER_HEAD_BYTES, SPAN_HEAD_BYTES};
use super::walk::SIDES;
use crate::bytes::{get_i16, get_u8, get_u32, slice};
use crate::cache::layer::LayerState;
use crate::cache::plan::Plan;
use crate::cache::side_plan::SidePlan;
use crate::cache::take_over::{LayerNeed, Room};
use crate::error::{Error, Side};
use crate::pack::plane_row_bytes;
use crate::policy::WhenFull;
use crate::quantize::precise::ZERO;

/// Rows of inputs up to 2^100 have exponents of -1000 to 778; those of a span lie a little around them.
const EXPONENTS: core::ops::RangeInclusive<i16> = -2048..=2047;

/// The most tokens: positions stay clear of the end of 32 bits.
const MAX_LEN: u32 = i32::MAX as u32;

/// The counters at the start of a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerHead {
    pub len: u32,
    pub n_sink: u32,
    pub n_hot: u32,
    pub n_evicted: u32,
    pub n_spans: u32,
}

impl LayerHead {
    pub fn of(state: &LayerState) -> Self {
        Self {
            len: state.len as u32,
            n_sink: state.n_sink as u32,
            n_hot: state.n_hot as u32,
            n_evicted: state.n_evicted as u32,
            n_spans: state.n_spans as u32,
        }
    }

    pub fn read(bytes: &[u8]) -> Self {
        let number = |i: usize| get_u32(bytes, 4 * i);
        Self { len: number(0), n_sink: number(1), n_hot: number(2), n_evicted: number(3), n_spans: number(4) }
    }

    pub fn to_bytes(self) -> [[u8; 4]; 5] {
        [self.len, self.n_sink, self.n_hot, self.n_evicted, self.n_spans].map(u32::to_le_bytes)
    }
}

/// The start of a span: how many of its tokens are held, and its tiers.
pub(super) fn read_span_head(bytes: &[u8]) -> (usize, [usize; 2]) {
    let count = get_i16(bytes, 0) as u16;
    (usize::from(count), [usize::from(get_u8(bytes, 2)), usize::from(get_u8(bytes, 3))])
}

/// Checks `snapshot` from the first byte to the last against a cache with `plan`, and adds up what it needs.
pub(super) fn check(plan: &Plan, snapshot: &[u8], room: &mut Room<'_>) -> Result<(), Error> {
    let header = Header::read(snapshot)?;
    Header::of(plan, 0, 0).compare(&header)?;
    if header.total() != snapshot.len() as u64 {
        return Err(Error::SnapshotLength { needed: header.total(), got: snapshot.len() as u64 });
    }
    let end = snapshot.len().saturating_sub(CRC_BYTES);
    check_crc(slice(snapshot, 0, end), get_u32(snapshot, end))?;
    let mut reader = Reader { bytes: slice(snapshot, 0, end), at: header.0.len() };
    for layer in 0..plan.shape.n_layers {
        let (len, need) = check_layer(plan, layer, &mut reader)?;
        if layer == 0 && len != header.len() {
            return Err(Error::SnapshotContent { field: "len", needed: header.len(), got: len });
        }
        room.add(&need);
    }
    if reader.at == end {
        Ok(())
    } else {
        let needed = (reader.at + CRC_BYTES) as u64;
        Err(Error::SnapshotLength { needed, got: snapshot.len() as u64 })
    }
}

fn check_layer(plan: &Plan, layer: usize, reader: &mut Reader<'_>) -> Result<(u32, LayerNeed), Error> {
    let head = LayerHead::read(reader.take(LAYER_HEAD_BYTES)?);
    at_most("len", MAX_LEN, head.len)?;
    at_most("sinks", plan.n_sink as u32, head.n_sink)?;
    at_most("recent tokens", plan.hot_len as u32, head.n_hot)?;
    let evicts = plan.policy.when_full == WhenFull::Evict;
    at_most("evicted tokens", if evicts { head.len } else { 0 }, head.n_evicted)?;
    let mut need = LayerNeed::new(layer, head.n_hot as usize);
    check_precise(plan, reader, head.n_sink as usize)?;
    let mut sum = u64::from(head.n_sink) + u64::from(head.n_evicted) + u64::from(head.n_hot);
    let mut n_spans = 0;
    while n_spans < head.n_spans {
        sum += check_span(plan, layer, reader, &mut need)? as u64;
        n_spans += 1;
    }
    check_precise(plan, reader, head.n_hot as usize)?;
    if sum != u64::from(head.len) {
        let got = u32::try_from(sum).unwrap_or(u32::MAX);
        return Err(Error::SnapshotContent { field: "sum of tokens", needed: head.len, got });
    }
    // Other tokens follow when there are as many sinks as the policy asks for.
    if head.n_sink != head.len && head.n_sink as usize != plan.n_sink {
        return Err(Error::SnapshotContent { field: "sinks", needed: plan.n_sink as u32, got: head.n_sink });
    }
    Ok((head.len, need))
}

/// Sinks or a recent window of `n` tokens.
fn check_precise(plan: &Plan, reader: &mut Reader<'_>, n: usize) -> Result<(), Error> {
    for side in SIDES.map(|side| plan.side(side)) {
        check_exponents(reader.take(2 * n * side.n_blocks)?)?;
    }
    for side in SIDES.map(|side| plan.side(side)) {
        check_rows(side, 8, reader, n)?;
    }
    Ok(())
}

fn check_span(
    plan: &Plan,
    layer: usize,
    reader: &mut Reader<'_>,
    need: &mut LayerNeed,
) -> Result<usize, Error> {
    let (count, tiers) = read_span_head(reader.take(SPAN_HEAD_BYTES)?);
    at_most("tokens of a span", plan.span_len as u32, count as u32)?;
    if count == 0 {
        return Err(Error::SnapshotContent { field: "tokens of a span", needed: 1, got: 0 });
    }
    for (side, tier) in SIDES.into_iter().zip(tiers) {
        let last = match plan.is_edge(layer) {
            true => 0,
            false => plan.policy.tiers(side).iter().flatten().count().saturating_sub(1),
        };
        at_most("tier", last as u32, tier as u32)?;
    }
    let layouts = [plan.layout(Side::Key, tiers[0]), plan.layout(Side::Value, tiers[1])];
    let n_blocks = plan.key.n_blocks + plan.value.n_blocks;
    check_exponents(reader.take(2 * n_blocks)?)?;
    if layouts[0].is_centered() {
        check_exponents(reader.take(2 * plan.key.n_blocks)?)?;
        check_rows(&plan.key, 4, reader, 1)?;
    }
    reader.take(plan.span_len * n_blocks)?;
    for (side, layout) in SIDES.into_iter().zip(layouts) {
        for &width in layout.planes() {
            check_rows(plan.side(side), width, reader, plan.span_len)?;
        }
    }
    need.add_span(plan, tiers);
    Ok(count)
}

fn check_exponents(bytes: &[u8]) -> Result<(), Error> {
    let mut at = 0;
    while at < bytes.len() {
        let e = get_i16(bytes, at);
        if e != ZERO && !EXPONENTS.contains(&e) {
            let needed = *EXPONENTS.end() as u32;
            return Err(Error::SnapshotContent { field: "exponent", needed, got: u32::from(e as u16) });
        }
        at += 2;
    }
    Ok(())
}

/// `n` tokens of a plane.
fn check_rows(side: &SidePlan, width: u8, reader: &mut Reader<'_>, n: usize) -> Result<(), Error> {
    for block in 0..side.n_blocks {
        let n_values = side.block_values(block);
        let row_bytes = plane_row_bytes(width, n_values);
        let rows = reader.take(n * row_bytes)?;
        if width == 8 && rows.contains(&0x80) {
            return Err(Error::SnapshotContent { field: "8-bit code", needed: 127, got: 0x80 });
        }
        // Head sizes are multiples of 4: a row of single bits may end in the middle of its last byte.
        if width == 1 && !n_values.is_multiple_of(8) {
            let last = rows.iter().skip(row_bytes.saturating_sub(1)).step_by(row_bytes.max(1));
            for &byte in last {
                at_most("last byte of a row", 0x0f, u32::from(byte))?;
            }
        }
    }
    Ok(())
}

fn at_most(field: &'static str, needed: u32, got: u32) -> Result<(), Error> {
    if got <= needed { Ok(()) } else { Err(Error::SnapshotContent { field, needed, got }) }
}

/// What is left of a snapshot's payload.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Error> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..n)) {
            Some(taken) => {
                self.at += n;
                Ok(taken)
            }
            None => Err(Error::SnapshotLength {
                needed: self.at as u64 + n as u64 + CRC_BYTES as u64,
                got: (self.bytes.len() + CRC_BYTES) as u64,
            }),
        }
    }
}

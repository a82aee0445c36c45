//! A layer's counters and a span's head, read from and written to their bytes as one value.

use super::storage::NONE;
use crate::bytes::{get_u8, get_u32, put, put_u8, put_u32, slice};
use crate::error::Side;
use crate::policy::MAX_TIERS;

/// The counters of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LayerState {
    /// Tokens appended and not trimmed: the next position.
    pub len: usize,
    /// Tokens among the sinks.
    pub n_sink: usize,
    /// Tokens in the recent window, the newest ones.
    pub n_hot: usize,
    /// Oldest and newest span.
    pub head: u32,
    pub tail: u32,
    pub n_spans: usize,
    /// Units of spans (the recent window's follow from `n_hot`).
    pub span_units: usize,
    /// Tokens dropped after the sinks.
    pub n_evicted: usize,
    /// Per side and tier `t`: the oldest span in a tier before `t`.
    pub cursors: [[u32; MAX_TIERS]; 2],
}

/// Index of a side in tables.
pub(crate) const fn side_index(side: Side) -> usize {
    match side {
        Side::Key => 0,
        Side::Value => 1,
    }
}

impl LayerState {
    pub const EMPTY: Self = Self {
        len: 0,
        n_sink: 0,
        n_hot: 0,
        head: NONE,
        tail: NONE,
        n_spans: 0,
        span_units: 0,
        n_evicted: 0,
        cursors: [[NONE; MAX_TIERS]; 2],
    };

    #[inline(never)]
    pub fn read(bytes: &[u8]) -> Self {
        let mut numbers = [0; 8];
        let mut cursors = [[NONE; MAX_TIERS]; 2];
        let (words, _) = bytes.as_chunks();
        for (number, word) in numbers.iter_mut().zip(words) {
            *number = u32::from_le_bytes(*word);
        }
        for (cursor, word) in cursors.as_flattened_mut().iter_mut().zip(words.iter().skip(numbers.len())) {
            *cursor = u32::from_le_bytes(*word);
        }
        let [len, n_sink, n_hot, head, tail, n_spans, span_units, n_evicted] = numbers;
        Self {
            len: len as usize,
            n_sink: n_sink as usize,
            n_hot: n_hot as usize,
            head,
            tail,
            n_spans: n_spans as usize,
            span_units: span_units as usize,
            n_evicted: n_evicted as usize,
            cursors,
        }
    }

    #[inline(never)]
    pub fn write(&self, bytes: &mut [u8]) {
        let numbers = [
            self.len as u32,
            self.n_sink as u32,
            self.n_hot as u32,
            self.head,
            self.tail,
            self.n_spans as u32,
            self.span_units as u32,
            self.n_evicted as u32,
        ];
        let mut words = bytes.as_chunks_mut().0.iter_mut();
        for numbers in [&numbers, self.cursors.as_flattened()] {
            for (number, word) in numbers.iter().zip(&mut words) {
                *word = number.to_le_bytes();
            }
        }
    }

    /// Position of the oldest token in the recent window.
    pub fn hot_start(&self) -> usize {
        self.len.saturating_sub(self.n_hot)
    }

    /// Tokens really held: all but the evicted ones.
    pub fn n_held(&self) -> usize {
        self.len.saturating_sub(self.n_evicted)
    }

    pub fn cursor(&self, side: Side, tier: usize) -> u32 {
        self.cursors.get(side_index(side)).and_then(|c| c.get(tier)).copied().unwrap_or(NONE)
    }

    pub fn set_cursor(&mut self, side: Side, tier: usize, id: u32) {
        if let Some(cursor) = self.cursors.get_mut(side_index(side)).and_then(|c| c.get_mut(tier)) {
            *cursor = id;
        }
    }
}

/// The start of a span record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpanHead {
    /// The next newer span.
    pub next: u32,
    /// Position of its first token.
    pub start: usize,
    /// Tokens held, fewer than `span_len` after a trim into the span.
    pub count: usize,
    pub key_tier: usize,
    pub value_tier: usize,
}

impl SpanHead {
    pub fn read(bytes: &[u8]) -> Self {
        let count = slice(bytes, 8, 2);
        Self {
            next: get_u32(bytes, 0),
            start: get_u32(bytes, 4) as usize,
            count: usize::from(get_u8(count, 0)) | usize::from(get_u8(count, 1)) << 8,
            key_tier: usize::from(get_u8(bytes, 10)),
            value_tier: usize::from(get_u8(bytes, 11)),
        }
    }

    pub fn write(&self, bytes: &mut [u8]) {
        put_u32(bytes, 0, self.next);
        put_u32(bytes, 4, self.start as u32);
        put(bytes, 8, &(self.count as u16).to_le_bytes());
        put_u8(bytes, 10, self.key_tier as u8);
        put_u8(bytes, 11, self.value_tier as u8);
    }

    pub fn tier(&self, side: Side) -> usize {
        match side {
            Side::Key => self.key_tier,
            Side::Value => self.value_tier,
        }
    }

    pub fn set_tier(&mut self, side: Side, tier: usize) {
        match side {
            Side::Key => self.key_tier = tier,
            Side::Value => self.value_tier = tier,
        }
    }
}

//! A store that tells how long attention over it took.

use std::time::{Duration, Instant};

use anyhow::Result;
use kvq_codec::KvShape;

use super::TierMap;
use crate::kv_store::packed::PackedStore;
use crate::kv_store::{KvBytes, KvStore};

/// Another store, and a clock.
pub(super) struct TimedStore {
    store: Box<dyn KvStore>,
    /// Spent on attention of all layers.
    pub attention: Duration,
}

impl TimedStore {
    pub fn new(store: Box<dyn KvStore>) -> Self {
        Self { store, attention: Duration::ZERO }
    }
}

impl KvStore for TimedStore {
    fn attend_within(
        &mut self,
        layer: usize,
        n_tokens: usize,
        window_len: usize,
        q: &[f32],
        out: &mut [f32],
    ) -> Result<()> {
        let begun = Instant::now();
        let attended = self.store.attend_within(layer, n_tokens, window_len, q, out);
        self.attention += begun.elapsed();
        attended
    }

    fn shape(&self) -> KvShape {
        self.store.shape()
    }

    fn len(&self) -> usize {
        self.store.len()
    }

    fn stretch(&self, layer: usize) -> usize {
        self.store.stretch(layer)
    }

    fn append(&mut self, layer: usize, n_tokens: usize, k: &[f32], v: &[f32]) -> Result<()> {
        self.store.append(layer, n_tokens, k, v)
    }

    fn trim(&mut self, len: usize) -> Result<()> {
        self.store.trim(len)
    }

    fn trim_as_fresh(&mut self, len: usize) -> Result<usize> {
        self.store.trim_as_fresh(len)
    }

    fn clear(&mut self) {
        self.store.clear();
    }

    fn memory(&self) -> KvBytes {
        self.store.memory()
    }

    fn packed(&self) -> Option<&PackedStore> {
        self.store.packed()
    }

    fn tier_map(&self) -> Option<TierMap> {
        self.store.tier_map()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv_store::dense::DenseF32;

    #[test]
    fn attention_is_timed_and_appending_is_not() {
        let shape = KvShape::new(1, 1, 32);
        let mut timed = TimedStore::new(Box::new(DenseF32::new(shape)));
        let rows = vec![0.5; 500 * 32];
        timed.append(0, 500, &rows, &rows).unwrap();
        assert_eq!((timed.len(), timed.attention), (500, Duration::ZERO));

        let (mut out, begun) = (vec![0.0; 32], Instant::now());
        timed.attend(0, 1, &rows[..32], &mut out).unwrap();
        let once = timed.attention;
        assert!(once > Duration::ZERO && once <= begun.elapsed());
        assert!(out.iter().all(|value| (value - 0.5).abs() < 1e-6));

        timed.attend(0, 1, &rows[..32], &mut out).unwrap();
        assert!(timed.attention > once);
        // What is refused changes nothing that is held.
        assert!(timed.attend(0, 1, &rows[..31], &mut out).is_err());
        assert_eq!(timed.memory(), timed.store.memory());
    }
}

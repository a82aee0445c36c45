//! Snapshots: all that a cache means, in one piece, independent of where its storage has put it.
//!
//! ```text
//! header | layer 0: counters, sinks, spans from the oldest, recent window | layer 1 … | CRC-32
//! ```
//!
//! Unit and record ids, free lists and everything else that follows from the tokens and their tiers is
//! left out, so two caches that mean the same give the same bytes, and a cache restores into a buffer of
//! any length that it fits. `docs/FORMAT.md` has the bytes, `docs/read_snapshot.py` a reader.

mod check;
mod header;
mod size;
#[cfg(all(test, feature = "trellis", feature = "low-bits", feature = "demote"))]
mod tests;
mod walk;

pub(super) use header::Header;
pub use header::{SNAPSHOT_HEADER_BYTES, SnapshotInfo};
pub use size::{SNAPSHOT_OVERHEAD_BYTES, snapshot_bytes_max};

use super::Cache;
use super::layer::SpanHead;
use super::storage::{NONE, Storage};
use crate::block::Layout;
use crate::bytes::slice;
use crate::crc::crc32;
use crate::error::{Error, Side};
use check::{LayerHead, read_span_head};
use size::{LAYER_HEAD_BYTES, SPAN_HEAD_BYTES};
use walk::{Loader, Writer};

impl<S: Storage> Cache<S> {
    /// Bytes of a snapshot taken now.
    pub fn snapshot_bytes(&self) -> usize {
        let mut bytes = SNAPSHOT_OVERHEAD_BYTES;
        for layer in 0..self.plan.shape.n_layers {
            let state = self.layer(layer);
            bytes += LAYER_HEAD_BYTES + (state.n_sink + state.n_hot) * size::precise_token_bytes(&self.plan);
            let mut at = state.head;
            while at != NONE {
                let head = SpanHead::read(self.record(at));
                bytes += size::span_bytes(&self.plan, self.span_layouts([head.key_tier, head.value_tier]));
                at = head.next;
            }
        }
        bytes
    }

    /// Writes a snapshot to the start of `out` and returns its bytes.
    ///
    /// The same tokens in the same tiers give the same bytes, whatever the buffer and the CPU.
    ///
    /// # Errors
    /// [`Error::SnapshotBuffer`] where `out` is shorter than [`snapshot_bytes`](Self::snapshot_bytes); `out`
    /// is then as it was.
    pub fn snapshot_into(&self, out: &mut [u8]) -> Result<usize, Error> {
        let total = self.snapshot_bytes();
        let got = out.len() as u64;
        let out = out.get_mut(..total).ok_or(Error::SnapshotBuffer { needed: total as u64, got })?;
        let mut writer = Writer { storage: self.storage.bytes(), out, at: 0 };
        writer.put(&Header::of(&self.plan, self.len(), total).0);
        for layer in 0..self.plan.shape.n_layers {
            self.write_layer(&mut writer, layer);
        }
        let crc = crc32(slice(writer.out, 0, writer.at));
        writer.put(&crc.to_le_bytes());
        Ok(writer.at)
    }

    fn write_layer(&self, writer: &mut Writer<'_>, layer: usize) {
        let state = self.layer(layer);
        writer.put(LayerHead::of(&state).to_bytes().as_flattened());
        walk::sinks(&self.plan, writer, layer, state.n_sink);
        let mut at = state.head;
        while at != NONE {
            let head = SpanHead::read(self.record(at));
            let [low, high] = (head.count as u16).to_le_bytes();
            writer.put(&[low, high, head.key_tier as u8, head.value_tier as u8]);
            walk::span(&self.plan, writer, at, self.span_layouts([head.key_tier, head.value_tier]));
            at = head.next;
        }
        walk::recent(&self.plan, writer, layer, state.n_hot);
    }

    /// Replaces what this cache holds by what a snapshot holds: it then attends and goes on exactly as the
    /// cache that was written, where it has the same budget.
    ///
    /// Shape and policy must be those of the snapshot ([`SnapshotInfo::read`] tells them); the length of the
    /// storage may be another one.
    ///
    /// # Errors
    /// The cache is as it was after any of them. [`Error::NotSnapshot`], [`Error::SnapshotVersion`],
    /// [`Error::SnapshotLength`] or [`Error::SnapshotChecksum`] for bytes that are no intact snapshot;
    /// [`Error::Mismatch`] for another shape or policy; [`Error::SnapshotContent`] for bytes that no cache
    /// wrote; [`Error::Room`] where the buffer is too short, [`Error::Grow`] where the storage cannot grow.
    ///
    /// # Examples
    /// ```
    /// use kvq_codec::{Backend, KvCache, KvShape, Policy};
    ///
    /// let mut memory = [0; 24 * 1024];
    /// let mut cache = KvCache::new(KvShape::new(1, 2, 32), Policy::FOUR_X, Backend::detect(), &mut memory)?;
    /// cache.append(0, 5, &[0.5; 2 * 5 * 32], &[1.0; 2 * 5 * 32])?;
    /// let mut page = [0; 4096];
    /// let bytes = cache.snapshot_into(&mut page)?;
    /// cache.clear();
    /// cache.restore(&page[..bytes])?;
    /// assert_eq!(cache.len(), 5);
    ///
    /// page[200] ^= 1; // one bit turned over in flash
    /// assert!(cache.restore(&page[..bytes]).is_err());
    /// assert_eq!(cache.len(), 5);
    /// # Ok::<(), kvq_codec::Error>(())
    /// ```
    pub fn restore(&mut self, snapshot: &[u8]) -> Result<(), Error> {
        let plan = self.plan;
        let mut room = self.room(&plan);
        check::check(&plan, snapshot, &mut room)?;
        self.start_over(&room)?;
        let mut at = SNAPSHOT_HEADER_BYTES;
        for layer in 0..plan.shape.n_layers {
            match self.load_layer(layer, snapshot, at) {
                Ok(end) => at = end,
                Err(error) => {
                    // Cannot be: the room was counted. An empty cache is a sound one.
                    self.clear();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Loads a checked layer that begins at `at`; returns where it ends.
    fn load_layer(&mut self, layer: usize, snapshot: &[u8], at: usize) -> Result<usize, Error> {
        let head = LayerHead::read(slice(snapshot, at, LAYER_HEAD_BYTES));
        let n_hot = head.n_hot as usize;
        let mut state = self.claim_recent(layer, n_hot)?;
        state.len = head.len as usize;
        state.n_sink = head.n_sink as usize;
        state.n_evicted = head.n_evicted as usize;
        let mut loader = Loader { storage: self.storage.bytes_mut(), snapshot, at: at + LAYER_HEAD_BYTES };
        walk::sinks(&self.plan, &mut loader, layer, state.n_sink);
        let mut at = loader.at;
        let mut start = state.n_sink + state.n_evicted;
        for _ in 0..head.n_spans {
            let (count, tiers) = read_span_head(slice(snapshot, at, SPAN_HEAD_BYTES));
            let record = self.claim_span(&mut state, start, count, tiers)?;
            let layouts = self.span_layouts(tiers);
            let mut loader = Loader { storage: self.storage.bytes_mut(), snapshot, at: at + SPAN_HEAD_BYTES };
            walk::span(&self.plan, &mut loader, record, layouts);
            at = loader.at;
            start += count;
        }
        let mut loader = Loader { storage: self.storage.bytes_mut(), snapshot, at };
        walk::recent(&self.plan, &mut loader, layer, n_hot);
        let at = loader.at;
        self.put_layer(layer, &state);
        Ok(at)
    }

    fn span_layouts(&self, tiers: [usize; 2]) -> [Layout; 2] {
        [self.plan.layout(Side::Key, tiers[0]), self.plan.layout(Side::Value, tiers[1])]
    }
}

//! The packed store in memory of a fixed length: nothing is allocated after it was opened.

use anyhow::{Result, anyhow};
use kvq_codec::{Backend, Cache, KvShape, Policy, Storage};

use super::packed::PackedStore;

/// Memory that never changes its length.
#[derive(Debug)]
pub struct FixedMemory(Box<[u8]>);

impl Storage for FixedMemory {
    const GROWS: bool = false;

    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn grow(&mut self, _len: usize) -> bool {
        false
    }
}

/// Packed keys and values of one sequence within a budget of bytes.
pub type FixedStore = PackedStore<FixedMemory>;

/// What the store's own struct takes of a budget.
pub const STRUCT_BYTES: usize = size_of::<Cache<FixedMemory>>();

impl FixedStore {
    /// An empty store of exactly `budget_bytes`, its own struct counted.
    ///
    /// # Errors
    /// A shape or a policy that the codec refuses, or a budget under its least bytes.
    ///
    /// # Examples
    /// ```
    /// use kvq_host::codec::{Backend, KvShape, Policy, WhenFull};
    /// use kvq_host::kv_store::KvStore;
    /// use kvq_host::kv_store::fixed::FixedStore;
    ///
    /// let policy = Policy::FOUR_X.with_byte_budget(WhenFull::Evict);
    /// let store = FixedStore::within(KvShape::new(3, 4, 32), policy, Backend::detect(), 256 * 1024)?;
    /// assert_eq!(store.memory().total(), 256 * 1024);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn within(shape: KvShape, policy: Policy, backend: Backend, budget_bytes: usize) -> Result<Self> {
        let memory = vec![0; budget_bytes.saturating_sub(STRUCT_BYTES)].into_boxed_slice();
        let cache = Cache::new(shape, policy, backend, FixedMemory(memory)).map_err(|e| anyhow!("{e}"))?;
        Ok(Self { cache })
    }
}

//! The bytes a cache lives in, and the free lists of units and records inside them.

use super::plan::Plan;
use crate::bytes::{get_u32, put_u32, shift_up, slice, slice_mut};

/// No unit, no record.
pub(crate) const NONE: u32 = u32::MAX;

/// Memory that a cache can live in.
///
/// A plain `&mut [u8]` has a fixed length. A host may lend memory that grows: see [`Storage::grow`].
///
/// # Examples
/// ```
/// use kvq_codec::{Backend, Cache, KvShape, Policy, Storage};
///
/// struct Growing(Vec<u8>);
///
/// impl Storage for Growing {
///     const GROWS: bool = true;
///
///     fn bytes(&self) -> &[u8] {
///         &self.0
///     }
///
///     fn bytes_mut(&mut self) -> &mut [u8] {
///         &mut self.0
///     }
///
///     fn grow(&mut self, len: usize) -> bool {
///         self.0.resize(len, 0);
///         true
///     }
/// }
///
/// let mut cache = Cache::new(KvShape::new(1, 2, 32), Policy::FOUR_X, Backend::detect(), Growing(Vec::new()))?;
/// let before = cache.storage_bytes();
/// cache.append(0, 40, &[0.5; 2 * 40 * 32], &[1.0; 2 * 40 * 32])?;
/// assert!(cache.storage_bytes() > before);
/// # Ok::<(), kvq_codec::Error>(())
/// ```
pub trait Storage {
    /// Whether [`grow`](Storage::grow) can succeed.
    const GROWS: bool;

    /// The bytes.
    fn bytes(&self) -> &[u8];

    /// The bytes, to be written.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Makes the memory at least `len` bytes long, keeping its content; `false` if it cannot.
    fn grow(&mut self, len: usize) -> bool;
}

impl Storage for &mut [u8] {
    const GROWS: bool = false;

    fn bytes(&self) -> &[u8] {
        self
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }

    fn grow(&mut self, _len: usize) -> bool {
        false
    }
}

/// Units and records handed out and free; their ids count from the front and from the back of the buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    n_units: u32,
    free_unit: u32,
    n_free_units: u32,
    n_records: u32,
    free_record: u32,
    n_free_records: u32,
}

impl Pool {
    pub const EMPTY: Self = Self {
        n_units: 0,
        free_unit: NONE,
        n_free_units: 0,
        n_records: 0,
        free_record: NONE,
        n_free_records: 0,
    };

    pub fn free_units(&self) -> usize {
        self.n_free_units as usize
    }

    pub fn used_records(&self) -> usize {
        (self.n_records - self.n_free_records.min(self.n_records)) as usize
    }

    /// Bytes of the fixed parts and of all units and records up to now, free ones too.
    pub fn used_bytes(&self, plan: &Plan) -> usize {
        plan.fixed_bytes()
            + self.n_units as usize * plan.unit_bytes
            + self.n_records as usize * plan.record_bytes
    }

    /// Makes room for `extra` more bytes between units and records.
    pub fn make_room<S: Storage>(&mut self, plan: &Plan, storage: &mut S, extra: usize) -> bool {
        let records = self.n_records as usize * plan.record_bytes;
        let used = self.used_bytes(plan);
        let old = storage.bytes().len();
        if used + extra <= old {
            return true;
        }
        // Steps of 1/512 keep the moves of the records at the end rare and the unused tail small.
        let new = (used + extra).max(old + old / 512);
        if !S::GROWS || !storage.grow(new) || storage.bytes().len() < new {
            return false;
        }
        let new = storage.bytes().len();
        shift_up(storage.bytes_mut(), old - records, new - records, records);
        true
    }

    /// Takes a unit.
    #[inline(never)]
    pub fn take_unit<S: Storage>(&mut self, plan: &Plan, storage: &mut S) -> Option<u32> {
        if self.free_unit != NONE {
            let id = self.free_unit;
            self.free_unit = get_u32(unit(plan, storage.bytes(), id), 0);
            self.n_free_units = self.n_free_units.wrapping_sub(1);
            return Some(id);
        }
        if !self.make_room(plan, storage, plan.unit_bytes) {
            return None;
        }
        self.n_units += 1;
        Some(self.n_units - 1)
    }

    /// Gives a unit back.
    #[inline(never)]
    pub fn give_unit(&mut self, plan: &Plan, bytes: &mut [u8], id: u32) {
        put_u32(unit_mut(plan, bytes, id), 0, self.free_unit);
        self.free_unit = id;
        self.n_free_units += 1;
    }

    /// Takes a record.
    pub fn take_record<S: Storage>(&mut self, plan: &Plan, storage: &mut S) -> Option<u32> {
        if self.free_record != NONE {
            let id = self.free_record;
            self.free_record = get_u32(record(plan, storage.bytes(), id), 0);
            self.n_free_records = self.n_free_records.wrapping_sub(1);
            return Some(id);
        }
        if !self.make_room(plan, storage, plan.record_bytes) {
            return None;
        }
        self.n_records += 1;
        Some(self.n_records - 1)
    }

    /// Gives a record back.
    pub fn give_record(&mut self, plan: &Plan, bytes: &mut [u8], id: u32) {
        put_u32(record_mut(plan, bytes, id), 0, self.free_record);
        self.free_record = id;
        self.n_free_records += 1;
    }
}

/// Where unit `id` begins.
pub(crate) fn unit_offset(plan: &Plan, id: u32) -> usize {
    (id as usize).saturating_mul(plan.unit_bytes).saturating_add(plan.fixed_bytes())
}

/// The bytes of unit `id`.
#[cfg_attr(kvq_small, inline(never))]
pub(crate) fn unit<'a>(plan: &Plan, bytes: &'a [u8], id: u32) -> &'a [u8] {
    slice(bytes, unit_offset(plan, id), plan.unit_bytes)
}

/// The bytes of unit `id`, to be written.
#[cfg_attr(kvq_small, inline(never))]
pub(crate) fn unit_mut<'a>(plan: &Plan, bytes: &'a mut [u8], id: u32) -> &'a mut [u8] {
    slice_mut(bytes, unit_offset(plan, id), plan.unit_bytes)
}

/// All units.
pub(crate) fn units<'a>(plan: &Plan, bytes: &'a [u8]) -> &'a [u8] {
    bytes.get(plan.fixed_bytes()..).unwrap_or(&[])
}

/// Where record `id` begins.
pub(crate) fn record_offset(plan: &Plan, len: usize, id: u32) -> usize {
    len.wrapping_sub((id as usize).wrapping_add(1).wrapping_mul(plan.record_bytes))
}

/// The bytes of record `id`.
#[cfg_attr(kvq_small, inline(never))]
pub(crate) fn record<'a>(plan: &Plan, bytes: &'a [u8], id: u32) -> &'a [u8] {
    slice(bytes, record_offset(plan, bytes.len(), id), plan.record_bytes)
}

/// The bytes of record `id`, to be written.
#[cfg_attr(kvq_small, inline(never))]
pub(crate) fn record_mut<'a>(plan: &Plan, bytes: &'a mut [u8], id: u32) -> &'a mut [u8] {
    let offset = record_offset(plan, bytes.len(), id);
    slice_mut(bytes, offset, plan.record_bytes)
}

/// The bytes of a layer's state.
#[cfg_attr(kvq_small, inline(never))]
pub(crate) fn layer<'a>(plan: &Plan, bytes: &'a [u8], layer: usize) -> &'a [u8] {
    slice(bytes, layer * plan.layer_bytes, plan.layer_bytes)
}

/// The bytes of a layer's state, to be written.
#[cfg_attr(kvq_small, inline(never))]
pub(crate) fn layer_mut<'a>(plan: &Plan, bytes: &'a mut [u8], layer: usize) -> &'a mut [u8] {
    slice_mut(bytes, layer * plan.layer_bytes, plan.layer_bytes)
}

//! The configuration of a cache, in plain numbers.

use kvq_codec::{KvShape, Policy, WhenFull};

use crate::handle::KVQ_HANDLE_BYTES;
use crate::pointer::{put, range};
use crate::status::{KvqError, KvqStatus};

/// Which precisions a cache gives up, in which order.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvqPreset {
    /// Everything at 8 bits.
    EightBit = 0,
    /// Keys from 4 bits to 3, values from 4 to 2.
    FourX = 1,
    /// As `FourX`.
    FiveX = 2,
    /// Keys may fall to 2 bits.
    SixX = 3,
}

/// What an append does when the memory is used up.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvqWhenFull {
    /// Demotes nothing; then `KVQ_STATUS_FULL`.
    Error = 0,
    /// Demotes the oldest tokens to fewer bits; then `KVQ_STATUS_FULL`.
    Demote = 1,
    /// Demotes, then drops the oldest tokens after the sinks.
    Evict = 2,
}

/// Shape and policy of a cache. `kvq_preset` fills in the policy; the memory's length is the budget.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvqConfig {
    /// Transformer layers.
    pub n_layers: u32,
    /// Key/value heads per layer.
    pub n_kv_heads: u32,
    /// Values in one key head vector: a multiple of 4 up to 256.
    pub key_head_dim: u32,
    /// Values in one value head vector.
    pub value_head_dim: u32,
    /// A `KvqPreset`.
    pub preset: u32,
    /// First tokens kept at 8 bits for good.
    pub n_sink: u32,
    /// Newest tokens kept at 8 bits at the least.
    pub recent_len: u32,
    /// Tokens packed and demoted together: 16, 32 or 64.
    pub span_len: u32,
    /// A `KvqWhenFull`.
    pub when_full: u32,
    /// Tokens before the newest that a query attends to; 0 for all.
    pub window_len: u32,
}

impl KvqConfig {
    /// The shape and policy that the figures stand for; whether they go together is for the codec to say.
    ///
    /// # Errors
    /// `Config`.
    pub(crate) fn parts(&self) -> Result<(KvShape, Policy), KvqError> {
        let narrow = |figure: u32| {
            u16::try_from(figure)
                .map_err(|_| KvqError::new(KvqStatus::Config, u16::MAX.into(), figure as usize))
        };
        let when_full = match self.when_full {
            0 => WhenFull::Error,
            1 => WhenFull::Demote,
            2 => WhenFull::Evict,
            other => return Err(KvqError::new(KvqStatus::Config, 2, other as usize)),
        };
        let policy = Policy {
            n_sink: narrow(self.n_sink)?,
            recent_len: narrow(self.recent_len)?,
            span_len: narrow(self.span_len)?,
            window_len: self.window_len,
            ..preset(self.preset)?.with_byte_budget(when_full)
        };
        let shape =
            KvShape::new(self.n_layers as usize, self.n_kv_heads as usize, self.key_head_dim as usize);
        Ok((shape.with_value_head_dim(self.value_head_dim as usize), policy))
    }
}

fn preset(number: u32) -> Result<Policy, KvqError> {
    let found = Policy::PRESETS.get(number as usize);
    let (_, policy) =
        found.ok_or(KvqError::new(KvqStatus::Config, Policy::PRESETS.len() - 1, number as usize))?;
    Ok(*policy)
}

/// Reads a configuration.
///
/// # Errors
/// `Null`, `Alignment` or `Config`.
///
/// # Safety
/// Unless it is null, `config` must lead to a `KvqConfig`.
pub(crate) unsafe fn read(config: *const KvqConfig) -> Result<(KvShape, Policy), KvqError> {
    range(config, 1, 1)?;
    // SAFETY: not null and aligned, by `range`; a configuration, whose fields are all integers, by the
    // caller's contract.
    unsafe { config.read() }.parts()
}

/// Writes the configuration of a `KvqPreset` that demotes when it is full; its shape is left 0 for the caller to fill
/// in.
///
/// # Safety
/// Unless it is null, `config` must be valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvq_preset(preset_number: u32, config: *mut KvqConfig) -> KvqStatus {
    let policy = match preset(preset_number) {
        Ok(policy) => policy,
        Err(error) => return error.status,
    };
    let value = KvqConfig {
        n_layers: 0,
        n_kv_heads: 0,
        key_head_dim: 0,
        value_head_dim: 0,
        preset: preset_number,
        n_sink: policy.n_sink.into(),
        recent_len: policy.recent_len.into(),
        span_len: policy.span_len.into(),
        when_full: KvqWhenFull::Demote as u32,
        window_len: policy.window_len,
    };
    // SAFETY: the caller's contract.
    done(unsafe { put(config, value, 2) })
}

/// The least bytes of memory with which `kvq_init` makes a cache, the handle among them.
///
/// # Safety
/// Unless they are null, `config` must lead to a configuration, and `bytes` must be valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvq_minimum_bytes(config: *const KvqConfig, bytes: *mut usize) -> KvqStatus {
    // SAFETY: the caller's contract.
    let parts = unsafe { read(config) };
    let least = parts.and_then(|(shape, policy)| Ok(kvq_codec::minimum_bytes(shape, policy)?));
    // SAFETY: the caller's contract.
    done(least.and_then(|least| unsafe { put(bytes, least.saturating_add(KVQ_HANDLE_BYTES), 2) }))
}

/// The tokens that are sure to fit into `memory_bytes`, the handle among them.
///
/// # Safety
/// Unless they are null, `config` must lead to a configuration, and `tokens` must be valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvq_capacity_tokens(
    config: *const KvqConfig,
    memory_bytes: usize,
    tokens: *mut usize,
) -> KvqStatus {
    let storage_bytes = memory_bytes.saturating_sub(KVQ_HANDLE_BYTES);
    // SAFETY: the caller's contract.
    let parts = unsafe { read(config) };
    let most =
        parts.and_then(|(shape, policy)| Ok(kvq_codec::capacity_tokens(shape, policy, storage_bytes)?));
    // SAFETY: the caller's contract.
    done(most.and_then(|most| unsafe { put(tokens, most, 3) }))
}

fn done(result: Result<(), KvqError>) -> KvqStatus {
    result.map_or_else(|error| error.status, |()| KvqStatus::Ok)
}

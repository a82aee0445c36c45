//! The caches that are compared, and how each is opened.

use anyhow::Result;
use kvq_codec::{Backend, KvShape};

use crate::kv_store::KvStore;
use crate::kv_store::dense::{DenseF16, DenseF32};
use crate::kv_store::fixed::FixedStore;
use crate::kv_store::packed::PackedStore;
use crate::policy::NamedPolicy;

/// A cache by what it keeps.
#[derive(Clone, Debug, PartialEq)]
pub enum CacheChoice {
    /// Every value as f32: the reference of all quality figures.
    DenseF32,
    /// Every value as f16: the reference of all byte figures.
    DenseF16,
    /// Packed under a policy.
    Packed(NamedPolicy),
    /// Packed under a policy into so many bytes, allocated at the start.
    Fixed(NamedPolicy, usize),
}

impl CacheChoice {
    /// Both dense caches, and then the policies, each in `budget_bytes` if they are given.
    pub fn dense_and(policies: &[NamedPolicy], budget_bytes: Option<usize>) -> Vec<Self> {
        let packed = policies.iter().cloned().map(|policy| match budget_bytes {
            Some(bytes) => Self::Fixed(policy, bytes),
            None => Self::Packed(policy),
        });
        [Self::DenseF32, Self::DenseF16].into_iter().chain(packed).collect()
    }

    /// The name in tables and records.
    pub fn name(&self) -> &str {
        match self {
            Self::DenseF32 => "dense-f32",
            Self::DenseF16 => "dense-f16",
            Self::Packed(policy) | Self::Fixed(policy, _) => &policy.name,
        }
    }

    /// The policy of a packed cache.
    pub const fn policy(&self) -> Option<&NamedPolicy> {
        match self {
            Self::Packed(policy) | Self::Fixed(policy, _) => Some(policy),
            _ => None,
        }
    }

    /// An empty cache; dense ones use kernels of the same instructions as `backend`.
    ///
    /// # Errors
    /// A shape that the policy cannot serve, or fewer bytes than it needs.
    pub fn open(&self, shape: KvShape, backend: Backend) -> Result<Box<dyn KvStore>> {
        Ok(match self {
            Self::DenseF32 => Box::new(DenseF32::with_backend(shape, backend.into())),
            Self::DenseF16 => Box::new(DenseF16::with_backend(shape, backend.into())),
            Self::Packed(policy) => Box::new(PackedStore::new(shape, policy.policy, backend)?),
            Self::Fixed(policy, bytes) => {
                Box::new(FixedStore::within(shape, policy.policy, backend, *bytes)?)
            }
        })
    }
}

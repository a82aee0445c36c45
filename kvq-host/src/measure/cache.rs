//! The caches that are compared, and how each is opened.

use anyhow::Result;
use kvq_codec::{Backend, KvShape};

use crate::kv_store::KvStore;
use crate::kv_store::dense::{DenseF16, DenseF32};
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
}

impl CacheChoice {
    /// Both dense caches, and then the policies.
    pub fn dense_and(policies: &[NamedPolicy]) -> Vec<Self> {
        let packed = policies.iter().cloned().map(Self::Packed);
        [Self::DenseF32, Self::DenseF16].into_iter().chain(packed).collect()
    }

    /// The name in tables and records.
    pub fn name(&self) -> &str {
        match self {
            Self::DenseF32 => "dense-f32",
            Self::DenseF16 => "dense-f16",
            Self::Packed(policy) => &policy.name,
        }
    }

    /// The policy of a packed cache.
    pub const fn policy(&self) -> Option<&NamedPolicy> {
        match self {
            Self::Packed(policy) => Some(policy),
            _ => None,
        }
    }

    /// An empty cache; `backend` is for packed ones, dense ones use the fastest kernels they have.
    ///
    /// # Errors
    /// A shape that the policy cannot serve.
    pub fn open(&self, shape: KvShape, backend: Backend) -> Result<Box<dyn KvStore>> {
        Ok(match self {
            Self::DenseF32 => Box::new(DenseF32::new(shape)),
            Self::DenseF16 => Box::new(DenseF16::new(shape)),
            Self::Packed(policy) => Box::new(PackedStore::new(shape, policy.policy, backend)?),
        })
    }
}

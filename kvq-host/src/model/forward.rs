//! What every family does before its first layer and after its last.

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};

use super::linear::Linear;
use super::{Logits, ModelConfig};
use crate::kv_store::KvStore;

/// Checks a forward pass and returns the position of its first token.
///
/// # Errors
/// See [`LanguageModel::forward`](super::LanguageModel::forward).
pub(crate) fn check(config: &ModelConfig, tokens: &[u32], store: &dyn KvStore) -> Result<usize> {
    let pos = store.len();
    ensure!(!tokens.is_empty(), "a forward pass over no token");
    ensure!(
        pos + tokens.len() <= config.max_context,
        "positions {pos} to {} of a model made for {} tokens",
        pos + tokens.len() - 1,
        config.max_context
    );
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= config.vocab_size) {
        anyhow::bail!("token {token} outside a vocabulary of {}", config.vocab_size);
    }
    ensure!(
        store.shape() == config.kv_shape(),
        "a store of shape {:?} for a model of shape {:?}",
        store.shape(),
        config.kv_shape()
    );
    Ok(pos)
}

/// Logits of the wanted rows of the residual stream `x (n, hidden_size)`, after `norm`.
pub(crate) fn logits(
    x: &[f32],
    config: &ModelConfig,
    wanted: Logits,
    norm: impl Fn(&[f32]) -> Vec<f32>,
    head: &Linear,
) -> Result<Tensor> {
    let rows = match wanted {
        Logits::None => return Ok(Tensor::zeros((0, config.vocab_size), DType::F32, &Device::Cpu)?),
        Logits::Last => &x[x.len() - config.hidden_size..],
        Logits::All => x,
    };
    head.product(&norm(rows))
}

//! A linear layer over full-precision or quantized weights: the one place where rows meet candle.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Tensor};

use super::{math, widened};

/// Rows from which quantized weights are multiplied in f32.
///
/// candle multiplies quantized weights row by row, at 9 billion multiply-adds per second on one thread of
/// the machine this was measured on, whatever the rows. Restoring the weights first costs 0.6 ns each and
/// then runs at the speed of a plain product: even at 16 rows, 1.8 times as fast at 32, 3.5 times at 512.
///
/// Where candle has VNNI products of 8-bit weights ([`widened`]), 512 rows would take three quarters of the time in
/// those. They are multiplied in f32 all the same: what a prompt leaves in the cache then has no rounded activations in
/// it, on any CPU.
const GEMM_ROWS: usize = 32;

/// Weights of a linear layer, `(outputs, inputs)`.
///
/// Full-precision weights are kept with the inputs contiguous, also where a checkpoint stores them the
/// other way round: one row then is one dot product, the fastest layout for a single token.
pub(crate) enum Weights {
    /// f32 `(outputs, inputs)`.
    Dense(Tensor),
    /// ggml blocks along the inputs, with a fused product in candle; behind the inputs there may be columns of
    /// zeros ([`widened`]).
    Quantized { blocks: Arc<QTensor>, matmul: QMatMul },
}

/// A linear layer with an optional bias.
pub(crate) struct Linear {
    weights: Weights,
    bias: Option<Vec<f32>>,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    /// From f32 weights `(outputs, inputs)`.
    pub(crate) fn dense(weights: &Tensor) -> Result<Self> {
        let (outputs, inputs) = weights.dims2().context("weights of a linear layer")?;
        Ok(Self { weights: Weights::Dense(weights.contiguous()?), bias: None, inputs, outputs })
    }

    /// From a GGUF tensor `(outputs, inputs)`; unquantized ones become f32, 8-bit ones are widened where that pays.
    pub(crate) fn from_gguf(blocks: Arc<QTensor>) -> Result<Self> {
        let (outputs, inputs) = blocks.shape().dims2().context("weights of a linear layer")?;
        let weights = match blocks.dtype() {
            GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => {
                Weights::Dense(blocks.dequantize(&Device::Cpu)?)
            }
            _ => {
                let blocks =
                    if widened::pays(&blocks)? { Arc::new(widened::widen(&blocks)?) } else { blocks };
                Weights::Quantized { matmul: QMatMul::from_arc(blocks.clone())?, blocks }
            }
        };
        Ok(Self { weights, bias: None, inputs, outputs })
    }

    /// The same layer with a bias, `(outputs)`.
    pub(crate) fn with_bias(mut self, bias: Vec<f32>) -> Result<Self> {
        ensure!(bias.len() == self.outputs, "bias of {} for {} outputs", bias.len(), self.outputs);
        self.bias = Some(bias);
        Ok(self)
    }

    /// Checks the sizes that a configuration promises.
    pub(crate) fn expect(self, name: &str, inputs: usize, outputs: usize) -> Result<Self> {
        ensure!(
            (self.outputs, self.inputs) == (outputs, inputs),
            "{name} is ({}, {}), the configuration asks for ({outputs}, {inputs})",
            self.outputs,
            self.inputs
        );
        Ok(self)
    }

    /// `x · Wᵀ + b`. Shapes: `x (n, inputs)`, result `(n, outputs)`.
    pub(crate) fn forward(&self, x: &[f32]) -> Result<Vec<f32>> {
        let mut out = self.product(x)?.flatten_all()?.to_vec1::<f32>()?;
        if let Some(bias) = &self.bias {
            math::add_bias(&mut out, bias);
        }
        Ok(out)
    }

    /// `x · Wᵀ` as a tensor `(n, outputs)`, without the bias: for logits, which are not copied again.
    ///
    /// On quantized weights a few rows are rounded to 8 bits on the way, as candle does; [`GEMM_ROWS`] and
    /// more are not. So the same token in a long chunk and alone agree to that rounding only.
    pub(crate) fn product(&self, x: &[f32]) -> Result<Tensor> {
        let n = x.len() / self.inputs;
        let x = Tensor::from_slice(x, (n, self.inputs), &Device::Cpu)?;
        Ok(match &self.weights {
            Weights::Dense(weights) => x.matmul(&weights.t()?)?,
            Weights::Quantized { blocks, .. } if n >= GEMM_ROWS => {
                x.matmul(&blocks.dequantize(&Device::Cpu)?.narrow(1, 0, self.inputs)?.t()?)?
            }
            Weights::Quantized { blocks, matmul } => {
                matmul.forward(&x.pad_with_zeros(1, 0, blocks.shape().dims2()?.1 - self.inputs)?)?
            }
        })
    }

    /// Rows `ids` of the weights, `(ids.len(), inputs)`: an embedding table is a linear layer read by row.
    pub(crate) fn rows(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let ids = Tensor::from_slice(ids, ids.len(), &Device::Cpu)?;
        let rows = match &self.weights {
            Weights::Dense(weights) => weights.index_select(&ids, 0)?,
            Weights::Quantized { blocks, .. } => blocks.embedding(&ids)?.narrow(1, 0, self.inputs)?,
        };
        Ok(rows.flatten_all()?.to_vec1::<f32>()?)
    }
}

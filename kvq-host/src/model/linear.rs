//! A linear layer over full-precision or quantized weights: the one place where rows meet candle.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, ensure};
use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::utils::barrier_pool;
use candle_core::{Device, Module, Tensor};
use rayon::prelude::*;

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

/// f32 weights that one thread multiplies by a single row before it takes more: tens of microseconds of work.
///
/// A part has as many whatever the number of threads, so that results do not depend on it.
const PART_WEIGHTS: usize = 1 << 16;

/// Outputs of quantized weights that one thread dequantizes and multiplies by many rows before it takes more. A part has
/// as many whatever the number of threads, too.
const PART_OUTPUTS: usize = 128;

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
            Weights::Dense(weights) if n == 1 => one_row(&x, weights)?,
            Weights::Dense(weights) => x.matmul(&weights.t()?)?,
            Weights::Quantized { blocks, .. } if n >= GEMM_ROWS => many_rows(&x, blocks, self.inputs)?,
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

/// `x · Wᵀ` of one row, which candle computes in one thread, shared out by outputs. Shapes: `x (1, inputs)`, `weights
/// (outputs, inputs)`.
fn one_row(x: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let (outputs, inputs) = weights.dims2()?;
    let len = (PART_WEIGHTS / inputs.max(1)).next_multiple_of(16);
    let products: Vec<_> = (0..outputs.div_ceil(len)).map(|_| OnceLock::new()).collect();
    barrier_pool().execute_chunked(products.len(), |parts| {
        for part in parts {
            let rows = weights.narrow(0, part * len, len.min(outputs - part * len));
            // Each part is computed once.
            let _ = products[part].set(rows.and_then(|rows| x.matmul(&rows.t()?)));
        }
    });
    let products = products.into_iter().filter_map(OnceLock::into_inner);
    Ok(Tensor::cat(&products.collect::<candle_core::Result<Vec<_>>>()?, 1)?)
}

/// `x · Wᵀ` of many rows over quantized weights, shared out by outputs: each part of the weights is dequantized by the
/// thread that multiplies by it, and is still in that one's cache then. Shape: `x (n, inputs)`.
fn many_rows(x: &Tensor, blocks: &QTensor, inputs: usize) -> Result<Tensor> {
    let (outputs, width) = blocks.shape().dims2()?;
    let (data, dtype) = (blocks.data()?, blocks.dtype());
    let part_bytes = PART_OUTPUTS * (width / dtype.block_size()) * dtype.type_size();
    let products = data.par_chunks(part_bytes).enumerate().map(|(i, data)| {
        let storage = QStorage::from_data(Cow::Borrowed(data), &Device::Cpu, dtype)?;
        let weights = QTensor::new(storage, (PART_OUTPUTS.min(outputs - i * PART_OUTPUTS), width))?
            .dequantize(&Device::Cpu)?;
        x.matmul(&weights.narrow(1, 0, inputs)?.t()?)
    });
    Ok(Tensor::cat(&products.collect::<candle_core::Result<Vec<_>>>()?, 1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_in_parts_is_the_row() {
        // Parts of 16 outputs, the last of 4.
        let (inputs, outputs) = (4096, 100);
        let wave = |n: usize, step: f32| (0..n).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>();
        let x = Tensor::from_vec(wave(inputs, 0.7), (1, inputs), &Device::Cpu).unwrap();
        let weights = Tensor::from_vec(wave(inputs * outputs, 0.3), (outputs, inputs), &Device::Cpu).unwrap();
        let parts = one_row(&x, &weights).unwrap();
        let whole = x.matmul(&weights.t().unwrap()).unwrap();
        assert_eq!(parts.dims(), [1, outputs]);
        let rows = |product: Tensor| product.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (part, whole) in rows(parts).into_iter().zip(rows(whole)) {
            assert!((part - whole).abs() < 1e-3, "{part} {whole}");
        }
    }

    #[test]
    fn many_rows_in_parts_are_the_rows() {
        // Parts of 128 outputs, the last of 44; the last 16 columns are no inputs.
        let (n, inputs, width, outputs) = (40, 240, 256, 300);
        let wave = |n: usize, step: f32| (0..n).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>();
        let x = Tensor::from_vec(wave(n * inputs, 0.7), (n, inputs), &Device::Cpu).unwrap();
        let weights = Tensor::from_vec(wave(outputs * width, 0.3), (outputs, width), &Device::Cpu).unwrap();
        let blocks = QTensor::quantize(&weights, GgmlDType::Q8_0).unwrap();
        let parts = many_rows(&x, &blocks, inputs).unwrap();
        let weights = blocks.dequantize(&Device::Cpu).unwrap().narrow(1, 0, inputs).unwrap();
        let whole = x.matmul(&weights.t().unwrap()).unwrap();
        assert_eq!(parts.dims(), [n, outputs]);
        let rows = |product: Tensor| product.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (part, whole) in rows(parts).into_iter().zip(rows(whole)) {
            assert!((part - whole).abs() < 1e-3, "{part} {whole}");
        }
    }
}

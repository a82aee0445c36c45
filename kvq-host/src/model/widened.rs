//! Weights with columns of zeros behind their inputs, which candle multiplies faster.
//!
//! candle has products of 8-bit blocks that take sixteen outputs at a time, where the CPU multiplies bytes in fours
//! (VNNI). They need inputs in multiples of 256; a model with others, such as SmolLM2-135M with 576, is left to dot
//! products that took 3.1 times as long per weight on the machine this was measured on. Zeros make up the multiple:
//! a third more bytes there, and 59 tokens per second where there were 36.

use std::borrow::Cow;

use anyhow::{Context, Result};
use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};

/// What inputs have to be a multiple of.
const TILE_INPUTS: usize = 256;

/// What outputs have to be a multiple of.
const TILE_OUTPUTS: usize = 16;

/// Whether weights `(outputs, inputs)` are multiplied faster with zeros behind them: on this CPU, and with at most half
/// as many zeros as inputs.
pub(super) fn pays(blocks: &QTensor) -> Result<bool> {
    let (outputs, inputs) = blocks.shape().dims2().context("weights of a linear layer")?;
    let zeros = inputs.next_multiple_of(TILE_INPUTS) - inputs;
    Ok(blocks.dtype() == GgmlDType::Q8_0
        && outputs.is_multiple_of(TILE_OUTPUTS)
        && (1..=inputs / 2).contains(&zeros)
        && has_tiles())
}

/// Whether candle uses those products on this CPU.
fn has_tiles() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avxvnni")
        || is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The same 8-bit blocks, and blocks of zeros behind those of each output.
pub(super) fn widen(blocks: &QTensor) -> Result<QTensor> {
    let (outputs, inputs) = blocks.shape().dims2().context("weights of a linear layer")?;
    let (dtype, width) = (blocks.dtype(), inputs.next_multiple_of(TILE_INPUTS));
    let row_bytes = |inputs: usize| inputs / dtype.block_size() * dtype.type_size();
    let mut wide = Vec::with_capacity(outputs * row_bytes(width));
    for row in blocks.data()?.chunks_exact(row_bytes(inputs)) {
        wide.extend_from_slice(row);
        wide.resize(wide.len() + row_bytes(width) - row_bytes(inputs), 0);
    }
    let storage = QStorage::from_data(Cow::Owned(wide), &Device::Cpu, dtype)?;
    Ok(QTensor::new(storage, (outputs, width))?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::Tensor;

    use super::*;
    use crate::model::linear::Linear;

    const OUTPUTS: usize = 32;
    const INPUTS: usize = 576;

    fn noise(n: usize, step: usize) -> Vec<f32> {
        (0..n).map(|i| (i * i * step % 1009) as f32 / 504.0 - 1.0).collect()
    }

    fn weights() -> Result<QTensor> {
        let weights = Tensor::from_vec(noise(OUTPUTS * INPUTS, 37), (OUTPUTS, INPUTS), &Device::Cpu)?;
        Ok(QTensor::quantize(&weights, GgmlDType::Q8_0)?)
    }

    #[test]
    fn widened_weights_are_the_same_and_zeros() -> Result<()> {
        let (weights, wide) = (weights()?, widen(&weights()?)?);
        assert_eq!(wide.shape().dims(), [OUTPUTS, 768]);
        let wide = wide.dequantize(&Device::Cpu)?;
        let [kept, zeros] = [wide.narrow(1, 0, INPUTS)?, wide.narrow(1, INPUTS, 768 - INPUTS)?];
        assert_eq!(kept.to_vec2::<f32>()?, weights.dequantize(&Device::Cpu)?.to_vec2::<f32>()?);
        assert!(zeros.flatten_all()?.to_vec1::<f32>()?.iter().all(|&zero| zero == 0.0));
        Ok(())
    }

    #[test]
    fn a_layer_over_widened_weights_computes_the_same() -> Result<()> {
        let dense = Linear::dense(&weights()?.dequantize(&Device::Cpu)?)?;
        let wide = Linear::from_gguf(Arc::new(weights()?))?.expect("layer", INPUTS, OUTPUTS)?;
        for n in [1, 3, 40] {
            let x = noise(n * INPUTS, 11);
            let (expected, got) = (dense.forward(&x)?, wide.forward(&x)?);
            assert_eq!(got.len(), n * OUTPUTS);
            let norm = expected.iter().map(|v| v * v).sum::<f32>().sqrt();
            let error = expected.iter().zip(&got).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
            // Up to 31 rows are rounded to 8 bits on the way.
            assert!(error < 0.01 * norm, "{n} rows: off by {error} of {norm}");
        }
        assert_eq!(wide.rows(&[3, 0])?, dense.rows(&[3, 0])?);
        Ok(())
    }

    #[test]
    fn few_inputs_are_not_made_several_times_as_wide() -> Result<()> {
        let narrow = Tensor::from_vec(noise(OUTPUTS * 64, 37), (OUTPUTS, 64), &Device::Cpu)?;
        assert!(!pays(&QTensor::quantize(&narrow, GgmlDType::Q8_0)?)?);
        Ok(())
    }
}

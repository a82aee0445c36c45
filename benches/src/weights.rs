//! 8-bit weights of a model, for what a decode does between two calls for attention.

use std::hint::black_box;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{DType, Device, Module, Tensor};

/// Matrices of one shape, as KVQ holds them, and a row to multiply by them.
pub struct Weights {
    matrices: Vec<QMatMul>,
    input: Tensor,
}

impl Weights {
    /// `n` of them.
    pub fn new(n: usize, n_inputs: usize, n_outputs: usize) -> Self {
        let matrix = || {
            let values = Tensor::ones((n_outputs, n_inputs), DType::F32, &Device::Cpu)?;
            QMatMul::from_qtensor(QTensor::quantize(&values, GgmlDType::Q8_0)?)
        };
        let matrices = (0..n).map(|_| matrix().expect("8-bit weights of any values")).collect();
        Self {
            matrices,
            input: Tensor::ones((1, n_inputs), DType::F32, &Device::Cpu).expect("a row of ones"),
        }
    }

    /// Multiplies by matrix `i`.
    pub fn multiply(&self, i: usize) {
        black_box(self.matrices[i].forward(&self.input).expect("a row of as many inputs"));
    }
}

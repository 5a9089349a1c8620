//! Products with packed weights.

use candle_core::{Device, Tensor};
use maquette_kernels::gemm::{Activation, Epilogue};
use maquette_ops::{Error, Type};

use crate::buffers::Buffers;
use crate::kernels::elements;
use crate::resident::Weight;
use crate::tensor::{dims, said};

/// A packed weight `[out, in]`.
#[derive(Debug)]
pub(super) struct Right {
    pub(super) weight: Weight,
    pub(super) ty: Type<u32>,
}

impl Right {
    /// Bytes that a product with a left side takes beside its output and dense copies of its inputs.
    pub(super) fn temporary_bytes(&self, x: &Type<u32>) -> u64 {
        let k = u64::from(self.ty.shape[1]);
        self.weight.matrix.product_bytes(x.elements() / k.max(1), k)
    }

    /// `activation(x * weight^T + bias) + residual`.
    pub(super) fn product(
        &self,
        x: &Tensor,
        bias: Option<&Tensor>,
        activation: Activation,
        residual: Option<&Tensor>,
        out: &Type<u32>,
        buffers: &Buffers,
    ) -> Result<Tensor, Error> {
        let fail = |e: candle_core::Error| Error::internal(said(&e));
        if out.elements() == 0 {
            // How many rows there are cannot be told from an output without elements.
            return Tensor::from_vec(Vec::<f32>::new(), dims(&out.shape), &Device::Cpu).map_err(fail);
        }
        let dense = |x: &Tensor| x.contiguous().map_err(fail);
        let lost = || Error::internal("a product of what is not f32");
        let x = dense(x)?;
        let bias = bias.map(dense).transpose()?;
        let residual = residual.map(dense).transpose()?;
        let input = elements(&x).ok_or_else(lost)?;
        let bias = bias.as_ref().map(|bias| elements(bias).ok_or_else(lost)).transpose()?;
        let residual = residual
            .as_ref()
            .map(|residual| elements(residual).ok_or_else(lost))
            .transpose()?;
        let count = out.elements() as usize;
        let mut output = buffers.take(count);
        let n = self.ty.shape[0] as usize;
        let epilogue = Epilogue {
            bias: bias.as_deref(),
            activation,
            residual: residual.as_deref(),
        };
        self.weight
            .matrix
            .product(&input, count / n.max(1), &mut output, &epilogue);
        Tensor::from_vec(output, dims(&out.shape), &Device::Cpu).map_err(fail)
    }
}

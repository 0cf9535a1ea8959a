//! What launches need beside what core's kernels need too: integer types, buffers to write to, products.

use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::{ElemType, IntKind, UIntKind};
use cubecl::prelude::BufferArg;

pub(super) use atbptt_core::device::launch::{Place, fold};

/// CubeCL's name of an integer type.
pub(super) fn int_elem(dtype: DType) -> ElemType {
    match dtype {
        DType::I64 => ElemType::Int(IntKind::I64),
        DType::I16 => ElemType::Int(IntKind::I16),
        DType::I8 => ElemType::Int(IntKind::I8),
        DType::U64 => ElemType::UInt(UIntKind::U64),
        DType::U32 => ElemType::UInt(UIntKind::U32),
        DType::U16 => ElemType::UInt(UIntKind::U16),
        DType::U8 => ElemType::UInt(UIntKind::U8),
        _ => ElemType::Int(IntKind::I32),
    }
}

/// What a launch gets of a tensor.
pub(super) trait Argument {
    fn argument(&self) -> BufferArg;
}

impl Argument for CubeTensor {
    /// The whole buffer; the tensor is contiguous. Copies less than [`CubeTensor::into_buffer_arg`] of a clone, once per step.
    fn argument(&self) -> BufferArg {
        // SAFETY: the length is the tensor's own.
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), self.meta.num_elements()) }
    }
}

impl Argument for Option<CubeTensor> {
    /// A buffer that is left out is the launch's first one once more, and never touched: it costs no binding.
    fn argument(&self) -> BufferArg {
        match self {
            Some(tensor) => tensor.argument(),
            None => BufferArg::alias(0, 1),
        }
    }
}

/// A buffer of its own, contiguous, that may be written: the tensor's where nobody else holds it.
pub(super) fn writable(tensor: CubeTensor) -> CubeTensor {
    let tensor = into_contiguous(tensor);
    match tensor.can_mut() && tensor.is_nonoverlapping() {
        true => tensor,
        false => tensor.copy(),
    }
}

/// a b, into `out` (contiguous).
pub(super) fn product(a: CubeTensor, b: CubeTensor, out: &CubeTensor) -> CubeTensor {
    use burn::backend::ops::FloatTensorOps as _;
    let into = matmul(
        a.clone(),
        b.clone(),
        Some(out.clone()),
        MatmulStrategy::default(),
        out.dtype,
    );
    into.unwrap_or_else(|_| into_contiguous(burn_cubecl::CubeBackend::float_matmul(a, b)))
}

//! What every launch needs: buffers, grid, element type.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeDevice;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::ir::{ElemType, FloatKind, IntKind, UIntKind};
use cubecl::prelude::*;

/// Units that share one row in a reduction: a power of two.
const ROW_UNITS: u32 = 256;

/// Where tensors are made.
#[derive(Clone)]
pub(super) struct Place {
    pub client: Client,
    pub device: CubeDevice,
    pub dtype: DType,
}

impl Place {
    pub fn of(tensor: &CubeTensor) -> Self {
        Self {
            client: tensor.client.clone(),
            device: tensor.device.clone(),
            dtype: tensor.dtype,
        }
    }

    /// Contiguous, not initialised.
    pub fn empty(&self, dims: &[usize]) -> CubeTensor {
        self.empty_as(dims, self.dtype)
    }

    /// The same in another type.
    pub fn empty_as(&self, dims: &[usize], dtype: DType) -> CubeTensor {
        empty_device_contiguous_dtype(
            self.client.clone(),
            self.device.clone(),
            Shape::from(dims.to_vec()),
            dtype,
        )
    }

    /// A grid of one unit per element.
    pub fn elementwise(&self, elements: usize) -> (CubeCount, CubeDim) {
        let dim = CubeDim::new(&self.client, elements);
        (
            calculate_cube_count_elemwise(&self.client, elements, dim),
            dim,
        )
    }

    /// A grid of one cube per row, and the number of units in each.
    pub fn rows(&self, rows: usize) -> (CubeCount, CubeDim, usize) {
        let hardware = &self.client.properties().hardware;
        let most = hardware.max_units_per_cube.min(hardware.max_cube_dim.0);
        let units = match ROW_UNITS <= most {
            true => ROW_UNITS,
            false => 1 << most.max(1).ilog2(),
        };
        // One dimension holds at least 65,535 cubes; more rows take a second one.
        let along = rows.clamp(1, 32_768);
        let count = CubeCount::Static(along as u32, rows.div_ceil(along) as u32, 1);
        (count, CubeDim::new_1d(units), units as usize)
    }

    pub fn elem(&self) -> ElemType {
        float_elem(self.dtype)
    }
}

/// Folds the units' values in a fixed order, the largest (`largest`) or the sum; known to all of them.
#[cube]
pub(super) fn fold(shared: &mut Shared<[f32]>, value: f32, #[comptime] largest: bool) -> f32 {
    let unit = UNIT_POS as usize;
    sync_cube();
    shared[unit] = value;
    sync_cube();
    let mut active = CUBE_DIM;
    while active > 1 {
        active /= 2;
        if UNIT_POS < active {
            let other = shared[unit + active as usize];
            if comptime!(largest) {
                shared[unit] = max(shared[unit], other);
            } else {
                shared[unit] += other;
            }
        }
        sync_cube();
    }
    shared[0]
}

/// CubeCL's name of a float type.
pub(super) fn float_elem(dtype: DType) -> ElemType {
    ElemType::Float(match dtype {
        DType::F16 => FloatKind::F16,
        DType::BF16 => FloatKind::BF16,
        DType::Flex32 => FloatKind::Flex32,
        _ => FloatKind::F32,
    })
}

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

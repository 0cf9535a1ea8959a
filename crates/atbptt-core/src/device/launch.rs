//! What every launch on a CubeCL backend needs: buffers, grid, element type, and a reduction within a cube. For the kernels of
//! this workspace's crates.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeDevice;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::ir::FloatKind;
use cubecl::prelude::*;

/// Units that share one row in a reduction: a power of two.
const ROW_UNITS: u32 = 256;

/// Where tensors are made.
#[derive(Clone)]
pub struct Place {
    /// Takes the launches.
    pub client: Client,
    /// Holds the tensors.
    pub device: CubeDevice,
    /// Their type, unless another is named.
    pub dtype: DType,
}

impl Place {
    /// Beside `tensor`, with its type.
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

    /// CubeCL's name of the tensors' type, which is one of those that [`float_elem`] knows.
    pub fn elem(&self) -> ElemType {
        float_elem(self.dtype).unwrap_or(ElemType::Float(FloatKind::F32))
    }
}

/// CubeCL's name of a float type that kernels compute with; `None` for others, f64 among them.
pub fn float_elem(dtype: DType) -> Option<ElemType> {
    Some(ElemType::Float(match dtype {
        DType::F32 => FloatKind::F32,
        DType::Flex32 => FloatKind::Flex32,
        DType::F16 => FloatKind::F16,
        DType::BF16 => FloatKind::BF16,
        _ => return None,
    }))
}

/// Folds the units' values in a fixed order, the largest (`largest`) or the sum; known to all of them.
#[cube]
pub fn fold(shared: &mut Shared<[f32]>, value: f32, #[comptime] largest: bool) -> f32 {
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

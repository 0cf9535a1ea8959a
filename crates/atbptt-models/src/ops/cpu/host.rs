//! Tensors of CPU backends as slices, and back.

use std::sync::Arc;

use burn::backend::{
    Backend,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::TensorData;

use super::kept::Kept;
use super::pool::Buffer;
use super::simd::Real;
#[cfg(feature = "flex")]
use super::unwritten::{Factors, factors, unwritten};

/// A backend whose tensors lie in main memory.
pub(crate) trait Host: Backend {
    /// The same values, row by row without gaps; a view is copied.
    fn contiguous(tensor: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The elements of a contiguous tensor of type `E`.
    fn elements<E: Real>(tensor: &FloatTensor<Self>) -> Option<&[E]>;
    /// The elements of a contiguous tensor of type `E` to change; `None` where somebody else holds them, too.
    fn elements_mut<E: Real>(tensor: &mut FloatTensor<Self>) -> Option<&mut [E]>;
    /// The elements of an integer tensor as indices below `end`; `None` where one is not.
    fn indices(tensor: &IntTensor<Self>, end: usize) -> Option<Vec<usize>>;
    /// A tensor of elements that are made when somebody reads them, where the backend has such.
    fn unwritten<E: Real>(kept: Kept<Self, E>) -> Result<FloatTensor<Self>, Kept<Self, E>> {
        Err(kept)
    }
    /// What the elements of a contiguous tensor of type `E` would be made of; `None` where they are there.
    fn kept<E: Real>(_: &FloatTensor<Self>) -> Option<Arc<Kept<Self, E>>> {
        None
    }
    /// A tensor of these elements; on Flex it takes the buffer over.
    fn tensor<E: Real>(data: Buffer<E>, shape: impl Into<Vec<usize>>) -> FloatTensor<Self>;
}

/// `values` as indices below `end`.
fn indices<I: Copy + TryInto<usize>>(
    values: impl IntoIterator<Item = I>,
    end: usize,
) -> Option<Vec<usize>> {
    values
        .into_iter()
        .map(|value| value.try_into().ok().filter(|&index| index < end))
        .collect()
}

#[cfg(feature = "flex")]
impl Host for burn::backend::Flex {
    fn contiguous(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        if tensor.is_contiguous() {
            tensor
        } else {
            tensor.to_contiguous()
        }
    }
    fn elements<E: Real>(tensor: &FloatTensor<Self>) -> Option<&[E]> {
        tensor.as_slice::<E>()
    }
    fn elements_mut<E: Real>(tensor: &mut FloatTensor<Self>) -> Option<&mut [E]> {
        let (layout, count) = (tensor.layout(), tensor.layout().num_elements());
        let whole = layout.is_contiguous() && layout.start_offset() == 0;
        if !whole || tensor.dtype() != E::dtype() {
            return None;
        }
        tensor.try_storage_mut::<E>()?.get_mut(..count)
    }
    fn indices(tensor: &IntTensor<Self>, end: usize) -> Option<Vec<usize>> {
        let tensor = Self::contiguous(tensor.clone());
        match tensor.dtype() {
            burn::tensor::DType::I64 => indices(tensor.as_slice::<i64>()?.iter().copied(), end),
            burn::tensor::DType::I32 => indices(tensor.as_slice::<i32>()?.iter().copied(), end),
            _ => None,
        }
    }
    fn unwritten<E: Real>(kept: Kept<Self, E>) -> Result<FloatTensor<Self>, Kept<Self, E>> {
        let shape = kept.shape();
        let data = TensorData::from_bytes(unwritten(Arc::new(kept)), shape, E::dtype());
        Ok(burn::backend::flex::FlexTensor::from_data(data))
    }
    fn kept<E: Real>(tensor: &FloatTensor<Self>) -> Option<Arc<Kept<Self, E>>> {
        let (layout, shape) = (tensor.layout(), tensor.layout().shape().to_vec());
        let whole = layout.is_contiguous() && layout.start_offset() == 0;
        let kept: Arc<Kept<Self, E>> = factors(&tensor.data_arc()).filter(|_| whole)?;
        (kept.shape()[..] == shape[..]).then_some(kept)
    }
    fn tensor<E: Real>(data: Buffer<E>, shape: impl Into<Vec<usize>>) -> FloatTensor<Self> {
        let data = TensorData::from_bytes(data.into(), shape.into(), E::dtype());
        burn::backend::flex::FlexTensor::from_data(data)
    }
}

#[cfg(feature = "flex")]
impl<E: Real> Factors for Kept<burn::backend::Flex, E> {
    fn bytes(&self) -> usize {
        self.elements() * size_of::<E>()
    }
    fn write(&self) -> super::pool::Storage {
        self.written().into()
    }
}

#[cfg(feature = "ndarray")]
#[allow(deprecated)]
impl Host for burn::backend::NdArray {
    fn contiguous(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        use burn::backend::{
            TensorMetadata,
            ndarray::NdArrayTensor::{F32, F64},
        };
        let shape = tensor.shape().to_vec();
        match &tensor {
            F32(storage) if !storage.view().is_standard_layout() => {
                from_vec(storage.view().iter().copied().collect::<Vec<f32>>(), shape)
            }
            F64(storage) if !storage.view().is_standard_layout() => {
                from_vec(storage.view().iter().copied().collect::<Vec<f64>>(), shape)
            }
            _ => tensor,
        }
    }
    fn elements<E: Real>(tensor: &FloatTensor<Self>) -> Option<&[E]> {
        use burn::backend::{
            TensorMetadata,
            ndarray::NdArrayTensor::{F32, F64},
        };
        match tensor {
            _ if tensor.dtype() != E::dtype() => None,
            F32(storage) => storage.view().to_slice().map(pulp::bytemuck::cast_slice),
            F64(storage) => storage.view().to_slice().map(pulp::bytemuck::cast_slice),
            _ => None,
        }
    }
    fn elements_mut<E: Real>(_: &mut FloatTensor<Self>) -> Option<&mut [E]> {
        None
    }
    fn indices(tensor: &IntTensor<Self>, end: usize) -> Option<Vec<usize>> {
        use burn::backend::ndarray::NdArrayTensor::{I32, I64};
        match tensor {
            I64(storage) => indices(storage.view().iter().copied(), end),
            I32(storage) => indices(storage.view().iter().copied(), end),
            _ => None,
        }
    }
    fn tensor<E: Real>(data: Buffer<E>, shape: impl Into<Vec<usize>>) -> FloatTensor<Self> {
        from_vec(data.to_vec(), shape.into())
    }
}

#[cfg(feature = "ndarray")]
#[allow(deprecated)]
fn from_vec<E: Real>(data: Vec<E>, shape: Vec<usize>) -> FloatTensor<burn::backend::NdArray> {
    burn::backend::ndarray::NdArrayTensor::from_data(TensorData::new(data, shape))
}

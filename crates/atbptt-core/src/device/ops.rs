//! The reduction of state gradients to norms, generic over the backend.
//!
//! Called by the functions on `Tensor` one level up. The body made of backend operations serves every backend; CubeCL
//! backends have a kernel (`cube`), which the tests hold to it.
//!
//! `lag`: steps back; `batch`: sequences; `features`: size of one state part.

// Burn deprecates its NdArray backend, which stays supported here; the extension macro names it.
#![allow(deprecated)]

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, TensorMetadata, backend_extension};
use burn::tensor::{DType, FloatDType};

/// Reduction of one state part's gradients, on whatever backend holds them.
///
/// Of `grads`, `[time, batch, features]`, the earliest step and largest lag first, gives `[lag, 1 + 2 · batch]`, the smallest lag
/// first: column `b < batch` is the norm of sequence `b` at each lag, √(Σ_i w_i g_i²); column `batch` is the norm of the batch mean
/// of the gradients summed over this lag and all smaller ones in the tensor, and those after it the norms of the same sums of every
/// sequence.
/// Half-precision input is computed in `f32`, the rest in its own type; every row is scaled by its largest entry, so that
/// squares neither overflow nor vanish. No gradient flows through.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Remote: cfg(feature = "remote"),
    Autodiff,
    Fusion: cfg(feature = "fusion")
)]
pub trait LagNormOps: Backend {
    /// Euclidean norms.
    #[fusion(dtype = norm_dtype(grads), shape = norm_shape(grads))]
    fn lag_norms(grads: FloatTensor<Self>) -> FloatTensor<Self> {
        reduce::<Self>(grads, None)
    }

    /// Norms with one weight per feature, `[features]`, each at least 0.
    #[fusion(dtype = norm_dtype(grads), shape = norm_shape(grads))]
    fn weighted_lag_norms(
        grads: FloatTensor<Self>,
        weights: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        reduce::<Self>(grads, Some(weights))
    }
}

#[cfg(feature = "flex")]
impl LagNormOps for burn::backend::Flex {}

#[cfg(feature = "ndarray")]
impl LagNormOps for burn::backend::NdArray {}

// Burn's operations go to the server one by one, whatever backend it runs.
#[cfg(feature = "remote")]
impl LagNormOps for burn::backend::Remote {}

#[cfg(all(feature = "remote", feature = "fusion"))]
compile_error!("the features `remote` and `fusion` exclude each other: build with one of them");

// Fusion, where it is on, wraps this one.
#[cfg(feature = "cube")]
impl LagNormOps for burn_cubecl::CubeBackend {
    fn lag_norms(grads: FloatTensor<Self>) -> FloatTensor<Self> {
        super::cube::reduce(&grads, None).unwrap_or_else(|| reduce::<Self>(grads, None))
    }

    fn weighted_lag_norms(
        grads: FloatTensor<Self>,
        weights: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        super::cube::reduce(&grads, Some(&weights))
            .unwrap_or_else(|| reduce::<Self>(grads, Some(weights)))
    }
}

impl<B: LagNormOps, C: CheckpointStrategy> LagNormOps for Autodiff<B, C> {
    fn lag_norms(grads: FloatTensor<Self>) -> FloatTensor<Self> {
        untracked::<B, C>(B::lag_norms(grads.into_primitive()))
    }

    fn weighted_lag_norms(
        grads: FloatTensor<Self>,
        weights: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (grads, weights) = (grads.into_primitive(), weights.into_primitive());
        untracked::<B, C>(B::weighted_lag_norms(grads, weights))
    }
}

fn untracked<B: Backend, C: CheckpointStrategy>(
    tensor: FloatTensor<B>,
) -> FloatTensor<Autodiff<B, C>> {
    <Autodiff<B, C> as burn::backend::AutodiffBackend>::from_inner(tensor)
}

/// Type of the norms of gradients of type `grads`.
fn norm_dtype(grads: DType) -> DType {
    match grads {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// Shape of the norms of gradients `[lag, batch, features]`.
#[cfg(feature = "fusion")]
fn norm_shape(grads: &burn::tensor::Shape) -> burn::tensor::Shape {
    [grads[0], 1 + 2 * grads[1]].into()
}

/// The reference body: backend operations only.
pub(super) fn reduce<B: Backend>(
    grads: FloatTensor<B>,
    weights: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    let dtype = match norm_dtype(grads.dtype()) {
        DType::F64 => FloatDType::F64,
        _ => FloatDType::F32,
    };
    let shape = grads.shape();
    let [lags, batch, features] = shape.dims();
    let grads = B::float_cast(grads, dtype);
    let weights = weights.map(|w| B::float_reshape(B::float_cast(w, dtype), [1, features].into()));

    // The smallest lag first, as the running sums need it.
    let grads = B::float_flip(grads, &[0]);
    let norms = |rows: FloatTensor<B>, columns: usize| {
        let rows = B::float_reshape(rows, [lags * columns, features].into());
        let norms = row_norms::<B>(rows, weights.clone());
        B::float_reshape(norms, [lags, columns].into())
    };
    let mean = B::float_mean_dim(grads.clone(), 1);
    let kept = norms(B::float_cumsum(mean, 0), 1);
    let each = norms(B::float_cumsum(grads.clone(), 0), batch);
    B::float_cat(vec![norms(grads, batch), kept, each], 1)
}

/// √(Σ_i w_i x_i²) of each row: `[rows, features]` to `[rows, 1]`.
fn row_norms<B: Backend>(rows: FloatTensor<B>, weights: Option<FloatTensor<B>>) -> FloatTensor<B> {
    // Largest entry of each row; the floor keeps a row of zeros from dividing by zero, and is a normal f32.
    let largest = B::float_clamp_min(B::float_max_abs_dim(rows.clone(), 1), 1e-37f32.into());
    let scaled = B::float_div(rows, largest.clone());
    let mut squares = B::float_mul(scaled.clone(), scaled);
    if let Some(weights) = weights {
        squares = B::float_mul(squares, weights);
    }
    B::float_mul(B::float_sqrt(B::float_sum_dim(squares, 1)), largest)
}

//! What the steps of a window are given on their way through the extension.

use burn::backend::{Backend, ExtensionType, tensor::FloatTensor};

use crate::ops::types::Optional;

/// What all steps of a window read; shapes as in [`ops`](crate::ops).
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub struct Steps<B: Backend> {
    /// `[T, B, gates · H]`: x W, without the bias
    pub inputs: FloatTensor<B>,
    /// `[H, recurrent gates · H]`
    #[extension_type]
    pub recurrent_weight: Optional<B>,
    /// `[gates · H]`
    pub bias: FloatTensor<B>,
    /// `[H]`
    #[extension_type]
    pub recurrent_bias: Optional<B>,
    /// `[B, S]`
    pub state: FloatTensor<B>,
    /// `[T, B, S]`
    #[extension_type]
    pub taps: Optional<B>,
    /// `[T, B, 1]`
    #[extension_type]
    pub reset_mask: Optional<B>,
}

/// What the way back through them reads.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub struct StepsBack<B: Backend> {
    /// Of every state, `[T, B, S]`
    pub grad: FloatTensor<B>,
    /// `[T, B, S]`
    pub states: FloatTensor<B>,
    /// `[T, B, saved gates · H]`
    pub gates: FloatTensor<B>,
    /// `[H, recurrent gates · H]`
    #[extension_type]
    pub recurrent_weight: Optional<B>,
    /// `[B, S]`
    pub state: FloatTensor<B>,
    /// `[T, B, S]`
    #[extension_type]
    pub taps: Optional<B>,
    /// `[T, B, 1]`
    #[extension_type]
    pub reset_mask: Optional<B>,
}

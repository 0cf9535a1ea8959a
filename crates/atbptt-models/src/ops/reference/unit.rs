//! What a cell's equations are given and give back, all sequences of a step at once.

use burn::backend::{Backend, tensor::FloatTensor};

use super::util::part;

/// What a step leaves.
pub(super) struct Stepped<B: Backend> {
    /// `[B, S]`
    pub state: FloatTensor<B>,
    /// `[B, saved gates · H]`; `None` where the state is all.
    pub gates: Option<FloatTensor<B>>,
}

/// What a step is given on the way back.
pub(super) struct Returned<B: Backend> {
    /// Gradient of the state that the step made, all uses together, `[B, S]`.
    pub grad: FloatTensor<B>,
    /// The state that the step made, `[B, S]`.
    pub state: FloatTensor<B>,
    /// The state that entered it, `[B, S]`.
    pub entering: FloatTensor<B>,
    /// The gates that it saved.
    pub gates: FloatTensor<B>,
    pub hidden: usize,
}

impl<B: Backend> Returned<B> {
    /// Gate `index` of those saved, `[B, H]`.
    pub fn gate(&self, index: usize) -> FloatTensor<B> {
        part::<B>(&self.gates, index, self.hidden)
    }
}

/// What a step leaves on the way back.
pub(super) struct SteppedBack<B: Backend> {
    /// Gradient at the input product, `[B, gates · H]`.
    pub input: FloatTensor<B>,
    /// Gradient at the recurrent product where it is another, `[B, recurrent gates · H]`.
    pub product: Option<FloatTensor<B>>,
    /// Gradient of what the cell carries past the recurrent product, `[B, H]`.
    pub carried: Option<FloatTensor<B>>,
}

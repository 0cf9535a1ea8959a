//! What operations are given and give back: tensors of one backend under their names. Shapes are in the
//! [parent module](super).

use burn::backend::{
    Backend, ExtensionType, TensorMetadata,
    tensor::{FloatTensor, IntTensor},
};

use super::cell::Cell;
use super::draws::BatchPart;

/// A tensor that may be absent.
///
/// An `Option` that Burn's extension macro can look into.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub enum Optional<B: Backend> {
    /// The tensor.
    Given(FloatTensor<B>),
    /// None.
    Absent,
}

impl<B: Backend> Optional<B> {
    /// The tensor, if there is one.
    pub fn as_option(&self) -> Option<&FloatTensor<B>> {
        match self {
            Self::Given(tensor) => Some(tensor),
            Self::Absent => None,
        }
    }

    /// The tensor itself, if there is one.
    pub fn into_option(self) -> Option<FloatTensor<B>> {
        match self {
            Self::Given(tensor) => Some(tensor),
            Self::Absent => None,
        }
    }

    /// Whether there is a tensor.
    pub fn is_given(&self) -> bool {
        matches!(self, Self::Given(_))
    }
}

impl<B: Backend> From<Option<FloatTensor<B>>> for Optional<B> {
    fn from(tensor: Option<FloatTensor<B>>) -> Self {
        tensor.map_or(Self::Absent, Self::Given)
    }
}

/// What a sequence operation is given: one layer's weights, the window's input, and the state that enters it.
#[derive(Clone, Debug, ExtensionType)]
pub struct Arguments<B: Backend> {
    /// `[T, B, I]`
    pub input: FloatTensor<B>,
    /// `[I, gates · H]`
    pub input_weight: FloatTensor<B>,
    /// `[H, gates · H]`. Where it is absent, the recurrent product is zero.
    #[extension_type]
    pub recurrent_weight: Optional<B>,
    /// `[gates · H]`
    pub bias: FloatTensor<B>,
    /// `[H]`, of cells that have one ([`Cell::has_recurrent_bias`]). Zero where it is absent.
    #[extension_type]
    pub recurrent_bias: Optional<B>,
    /// `[B, S]`, packed
    pub state: FloatTensor<B>,
    /// `[T, B, S]`, added to the states that steps hand over
    #[extension_type]
    pub taps: Optional<B>,
    /// `[T, B, 1]`, zero where a step begins a new sequence, else one
    #[extension_type]
    pub reset_mask: Optional<B>,
}

/// Sizes of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub time: usize,
    pub batch: usize,
    pub inputs: usize,
    pub hidden: usize,
}

impl<B: Backend> Arguments<B> {
    pub(crate) fn sizes(&self, cell: Cell) -> Sizes {
        let (input, state) = (self.input.shape(), self.state.shape());
        Sizes {
            time: input[0],
            batch: input[1],
            inputs: input[2],
            hidden: state[1] / cell.state_parts(),
        }
    }
}

/// What a forward pass leaves to the backward pass.
#[derive(Clone, Debug)]
pub struct SavedActivations<B: Backend> {
    /// Packed state of every step, `[T, B, S]`: the operation's result.
    pub states: FloatTensor<B>,
    /// Activated gates of every step, `[T, B, saved gates · H]` ([`Cell::saved_gates`]); the states again where that is zero.
    pub gates: FloatTensor<B>,
}

/// Which gradients a backward pass has to compute.
///
/// Those of taps and initial state come with the recursion at no cost; the others are large products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NeedsGrad {
    /// Of the input.
    pub input: bool,
    /// Of the input weight.
    pub input_weight: bool,
    /// Of the recurrent weight.
    pub recurrent_weight: bool,
    /// Of the biases.
    pub bias: bool,
    /// Of the taps.
    pub taps: bool,
}

/// Gradients of a window; `None` where [`NeedsGrad`] does not ask, or the cell has no such weight.
#[derive(Clone, Debug)]
pub struct SequenceGradients<B: Backend> {
    /// `[T, B, I]`
    pub input: Option<FloatTensor<B>>,
    /// Like the input weight.
    pub input_weight: Option<FloatTensor<B>>,
    /// Like the recurrent weight.
    pub recurrent_weight: Option<FloatTensor<B>>,
    /// Like the bias.
    pub bias: Option<FloatTensor<B>>,
    /// Like the recurrent bias.
    pub recurrent_bias: Option<FloatTensor<B>>,
    /// `[B, S]`
    pub state: FloatTensor<B>,
    /// `[T, B, S]`
    pub taps: Option<FloatTensor<B>>,
}

/// What the softmax loss is given.
#[derive(Clone, Debug, ExtensionType)]
pub struct NllArguments<B: Backend> {
    /// `[rows, H]`
    pub hidden: FloatTensor<B>,
    /// `[classes, H]`
    pub weight: FloatTensor<B>,
    /// `[classes]`
    #[extension_type]
    pub bias: Optional<B>,
    /// `[rows]`, each in `0..classes`
    pub targets: IntTensor<B>,
    /// `[rows]`, factors on the losses; ones where absent.
    #[extension_type]
    pub row_weights: Optional<B>,
}

/// Which gradients of the softmax loss are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NllNeedsGrad {
    /// Of the hidden rows.
    pub hidden: bool,
    /// Of the weight.
    pub weight: bool,
    /// Of the bias.
    pub bias: bool,
}

/// Summed loss and its gradients, computed together: the logits of a block of rows are used while they exist.
#[derive(Clone, Debug)]
pub struct NllOutput<B: Backend> {
    /// `[1]`, in nats, weighted
    pub loss: FloatTensor<B>,
    /// `[rows]`, in nats, not weighted
    pub rows: FloatTensor<B>,
    /// `[rows, H]`
    pub hidden: Option<FloatTensor<B>>,
    /// `[classes, H]`
    pub weight: Option<FloatTensor<B>>,
    /// `[classes]`
    pub bias: Option<FloatTensor<B>>,
}

/// A block of rows on its way through the softmax.
#[derive(Clone, Debug)]
pub struct LogitBlock<B: Backend> {
    /// `[rows, classes]`, without the bias
    pub logits: FloatTensor<B>,
    /// `[classes]`
    pub bias: Option<FloatTensor<B>>,
    /// `[rows]`
    pub targets: IntTensor<B>,
    /// `[rows]`; ones where absent
    pub row_weights: Option<FloatTensor<B>>,
}

/// What came out of it.
#[derive(Clone, Debug)]
pub struct BlockLoss<B: Backend> {
    /// `[rows]`, in nats, not weighted
    pub rows: FloatTensor<B>,
    /// `[rows, classes]`: gradient of the weighted sum at the logits
    pub logits: Option<FloatTensor<B>>,
}

/// Which elements a dropout kept.
#[derive(Clone, Debug)]
pub enum DropoutMask<B: Backend> {
    /// Ones and zeros.
    Tensor(FloatTensor<B>),
    /// Drawn again from this seed by the backend's own kernel.
    Seed(MaskSeed),
}

/// What a mask is drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskSeed {
    /// The seed of the whole mask.
    pub seed: u64,
    /// Which sequences of a whole batch, `[time, batch, features]`, the tensor holds; `None`: it is the whole.
    pub part: Option<BatchPart>,
}

//! One recurrent layer each: weights, and the sequence operation that runs them.
//!
//! Place in the flow: [`Stack`](crate::Stack) puts layers above each other, and packs their states for the operation.

use std::fmt::Debug;

use burn::module::{Module, ModuleDisplay, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor};

use crate::ModelError;
use crate::init::WeightInit;
use crate::ops::{self, Cell, SequenceOptions, Weights};
use crate::state::{LstmState, PackedState};

/// Sizes and options of one layer.
#[derive(Clone, Debug)]
pub struct LayerConfig {
    /// Number of input features.
    pub d_input: usize,
    /// Number of hidden units.
    pub d_hidden: usize,
    /// Whether the layer has biases.
    pub bias: bool,
    /// Initial forget-gate bias (LSTM only).
    pub forget_bias: f64,
    /// Initial weights.
    pub weights: WeightInit,
}

/// A recurrent layer that runs a window as one operation: the weights of a [`Cell`].
pub trait RecurrentLayer: Module + ModuleDisplay + Debug + Sync + 'static {
    /// State of this layer.
    type State: PackedState;
    /// The cell whose weights the layer holds.
    const CELL: Cell;
    /// Name in messages and summaries.
    const NAME: &'static str = Self::CELL.name();
    /// Number of parts of the state: 2 for hidden and cell.
    const PARTS: usize = Self::CELL.state_parts();

    /// A new layer.
    #[doc(hidden)]
    fn init(config: &LayerConfig, device: &Device) -> Self;

    /// The weights, as the sequence operation takes them.
    fn weights(&self) -> Weights;

    /// Number of hidden units.
    fn d_hidden(&self) -> usize {
        self.weights().input.dims()[1] / Self::CELL.gates()
    }

    /// Number of input features.
    fn d_input(&self) -> usize {
        self.weights().input.dims()[0]
    }

    /// Runs a window, time-major: `input` `[time, batch, input]`, packed `state` `[batch, S]` → every step's packed
    /// state `[time, batch, S]`. The first `d_hidden` features are the output.
    ///
    /// # Errors
    ///
    /// [`ModelError::Shape`] when a shape does not fit.
    fn sequence(
        &self,
        input: Tensor<3>,
        state: Tensor<2>,
        options: SequenceOptions,
    ) -> Result<Tensor<3>, ModelError> {
        ops::sequence(Self::CELL, input, self.weights(), state, options)
    }
}

fn bias_param(size: usize, present: bool, device: &Device) -> Option<Param<Tensor<1>>> {
    present.then(|| Initializer::Zeros.init([size], device))
}

fn value<const D: usize>(param: &Option<Param<Tensor<D>>>) -> Option<Tensor<D>> {
    param.as_ref().map(Param::val)
}

/// One LSTM layer (Hochreiter & Schmidhuber 1997, with forget gate).
#[derive(Module, Debug)]
pub struct LstmLayer {
    /// `[input, 4·hidden]`, gates i, f, g, o.
    pub input_weight: Param<Tensor<2>>,
    /// `[hidden, 4·hidden]`, gates i, f, g, o.
    pub recurrent_weight: Param<Tensor<2>>,
    /// `[4·hidden]`, gates i, f, g, o.
    pub bias: Option<Param<Tensor<1>>>,
}

impl RecurrentLayer for LstmLayer {
    type State = LstmState;
    const CELL: Cell = Cell::Lstm;

    fn init(config: &LayerConfig, device: &Device) -> Self {
        let (i, h) = (config.d_input, config.d_hidden);
        let bias = config.bias.then(|| {
            let zeros = |gates: usize| Tensor::zeros([gates * h], device);
            let forget = zeros(1) + config.forget_bias;
            // A parameter of its own: mapping one would leave a tensor that is no leaf and gets no gradient.
            Param::from_tensor(Tensor::cat(vec![zeros(1), forget, zeros(2)], 0))
        });
        Self {
            input_weight: config.weights.init([i, 4 * h], h, device),
            recurrent_weight: config.weights.init([h, 4 * h], h, device),
            bias,
        }
    }

    fn weights(&self) -> Weights {
        Weights {
            input: self.input_weight.val(),
            recurrent: Some(self.recurrent_weight.val()),
            bias: value(&self.bias),
            recurrent_bias: None,
        }
    }
}

/// One GRU layer (Cho et al. 2014; reset gate after the recurrent product, as in PyTorch and cuDNN).
#[derive(Module, Debug)]
pub struct GruLayer {
    /// `[input, 3·hidden]`, gates r, z, n.
    pub input_weight: Param<Tensor<2>>,
    /// `[hidden, 3·hidden]`, gates r, z, n.
    pub recurrent_weight: Param<Tensor<2>>,
    /// `[3·hidden]`, gates r, z, n.
    pub bias: Option<Param<Tensor<1>>>,
    /// `[hidden]`, inside the product that the reset gate multiplies.
    pub recurrent_bias: Option<Param<Tensor<1>>>,
}

impl RecurrentLayer for GruLayer {
    type State = Tensor<2>;
    const CELL: Cell = Cell::Gru;

    fn init(config: &LayerConfig, device: &Device) -> Self {
        let (i, h) = (config.d_input, config.d_hidden);
        Self {
            input_weight: config.weights.init([i, 3 * h], h, device),
            recurrent_weight: config.weights.init([h, 3 * h], h, device),
            bias: bias_param(3 * h, config.bias, device),
            recurrent_bias: bias_param(h, config.bias, device),
        }
    }

    fn weights(&self) -> Weights {
        Weights {
            input: self.input_weight.val(),
            recurrent: Some(self.recurrent_weight.val()),
            bias: value(&self.bias),
            recurrent_bias: value(&self.recurrent_bias),
        }
    }
}

/// One tanh-RNN layer (Elman 1990).
#[derive(Module, Debug)]
pub struct RnnLayer {
    /// `[input, hidden]`
    pub input_weight: Param<Tensor<2>>,
    /// `[hidden, hidden]`
    pub recurrent_weight: Param<Tensor<2>>,
    /// `[hidden]`
    pub bias: Option<Param<Tensor<1>>>,
}

impl RecurrentLayer for RnnLayer {
    type State = Tensor<2>;
    const CELL: Cell = Cell::Rnn;

    fn init(config: &LayerConfig, device: &Device) -> Self {
        let (i, h) = (config.d_input, config.d_hidden);
        Self {
            input_weight: config.weights.init([i, h], h, device),
            recurrent_weight: config.weights.init([h, h], h, device),
            bias: bias_param(h, config.bias, device),
        }
    }

    fn weights(&self) -> Weights {
        Weights {
            input: self.input_weight.val(),
            recurrent: Some(self.recurrent_weight.val()),
            bias: value(&self.bias),
            recurrent_bias: None,
        }
    }
}

/// One minGRU layer (Feng et al. 2024): gate and candidate see the input alone.
#[derive(Module, Debug)]
pub struct MinGruLayer {
    /// `[input, 2·hidden]`, gate z and candidate n.
    pub input_weight: Param<Tensor<2>>,
    /// `[2·hidden]`, likewise.
    pub bias: Option<Param<Tensor<1>>>,
}

impl RecurrentLayer for MinGruLayer {
    type State = Tensor<2>;
    const CELL: Cell = Cell::MinGru;

    fn init(config: &LayerConfig, device: &Device) -> Self {
        let (i, h) = (config.d_input, config.d_hidden);
        Self {
            input_weight: config.weights.init([i, 2 * h], h, device),
            bias: bias_param(2 * h, config.bias, device),
        }
    }

    fn weights(&self) -> Weights {
        Weights {
            input: self.input_weight.val(),
            recurrent: None,
            bias: value(&self.bias),
            recurrent_bias: None,
        }
    }
}

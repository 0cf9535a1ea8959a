//! Recurrent states: what a model carries from one step, or one window, to the next.

use std::fmt::Debug;

use burn::nn::LstmState as BurnLstmState;
use burn::tensor::{Device, Int, Tensor};

use crate::ModelError;
use crate::ops::checks::alike;

/// A state made of parts `[batch, features]`, such as hidden and cell of every layer.
///
/// One method is enough: visiting the parts. Everything else follows from it.
///
/// ```
/// use atbptt_models::RecurrentState;
/// use burn::tensor::Tensor;
///
/// #[derive(Clone)]
/// struct Position { mean: Tensor<2>, spread: Tensor<2> }
///
/// impl RecurrentState for Position {
///     fn map_parts(self, f: &mut dyn FnMut(Tensor<2>) -> Tensor<2>) -> Self {
///         Position { mean: f(self.mean), spread: f(self.spread) }
///     }
/// }
/// ```
pub trait RecurrentState: Clone + Send + 'static {
    /// Rebuilds the state with `f` applied to every part `[batch, features]`, always in the same order.
    fn map_parts(self, f: &mut dyn FnMut(Tensor<2>) -> Tensor<2>) -> Self;

    /// The parts, in order, each `[batch, features]`.
    fn parts(&self) -> Vec<Tensor<2>> {
        let mut parts = Vec::new();
        self.clone().map_parts(&mut |part| {
            parts.push(part.clone());
            part
        });
        parts
    }

    /// The same structure with other parts, in the order of [`parts`](Self::parts); missing ones stay as they are.
    fn with_parts(self, parts: Vec<Tensor<2>>) -> Self {
        let mut parts = parts.into_iter();
        self.map_parts(&mut |old| parts.next().unwrap_or(old))
    }

    /// Cuts the graph: no gradient flows to the steps that produced this state.
    fn detach(self) -> Self {
        self.map_parts(&mut |part| part.detach())
    }

    /// Moves every part to `device`.
    fn to_device(self, device: &Device) -> Self {
        self.map_parts(&mut |part| part.to_device(device))
    }

    /// Keeps the named sequences, in the order given (an index may repeat, as beam search needs).
    fn select(self, sequences: Tensor<1, Int>) -> Self {
        self.map_parts(&mut |part| part.select(0, sequences.clone()))
    }

    /// Number of sequences; zero for a state without parts.
    fn batch_size(&self) -> usize {
        self.parts().first().map_or(0, |part| part.dims()[0])
    }
}

/// State of one LSTM layer.
#[derive(Clone, Debug)]
pub struct LstmState {
    /// Hidden state h, `[batch, hidden]`.
    pub hidden: Tensor<2>,
    /// Cell state c, `[batch, hidden]`.
    pub cell: Tensor<2>,
}

impl RecurrentState for LstmState {
    fn map_parts(self, f: &mut dyn FnMut(Tensor<2>) -> Tensor<2>) -> Self {
        Self {
            hidden: f(self.hidden),
            cell: f(self.cell),
        }
    }
}

/// One part, as in a GRU or a plain RNN.
impl RecurrentState for Tensor<2> {
    fn map_parts(self, f: &mut dyn FnMut(Tensor<2>) -> Tensor<2>) -> Self {
        f(self)
    }
}

/// The state of Burn's own `nn::Lstm`: cell, then hidden.
impl RecurrentState for BurnLstmState<2> {
    fn map_parts(self, f: &mut dyn FnMut(Tensor<2>) -> Tensor<2>) -> Self {
        Self::new(f(self.cell), f(self.hidden))
    }
}

/// The state of one layer, which the sequence operation takes as one tensor `[batch, S]`: its parts side by side.
pub trait PackedState: RecurrentState + Sync + Debug {
    /// The parts side by side.
    ///
    /// # Errors
    ///
    /// [`ModelError`] when they do not belong together.
    fn pack(self) -> Result<Tensor<2>, ModelError>;

    /// The reverse.
    fn unpack(packed: Tensor<2>) -> Self;
}

impl PackedState for Tensor<2> {
    fn pack(self) -> Result<Tensor<2>, ModelError> {
        Ok(self)
    }

    fn unpack(packed: Tensor<2>) -> Self {
        packed
    }
}

impl PackedState for LstmState {
    fn pack(self) -> Result<Tensor<2>, ModelError> {
        let Self { hidden, cell } = self;
        alike("cell state", &cell, &hidden)?;
        if cell.dims() != hidden.dims() {
            return Err(ModelError::shape(
                "cell state",
                cell.dims(),
                format!("{:?}, as the hidden state", hidden.dims()),
                "pass a state that a model returned",
            ));
        }
        Ok(Tensor::cat(vec![hidden, cell], 1))
    }

    fn unpack(packed: Tensor<2>) -> Self {
        let [batch, size] = packed.dims();
        Self {
            hidden: packed.clone().slice([0..batch, 0..size / 2]),
            cell: packed.slice([0..batch, size / 2..size]),
        }
    }
}

/// One state per layer, bottom layer first.
impl<S: RecurrentState> RecurrentState for Vec<S> {
    fn map_parts(self, f: &mut dyn FnMut(Tensor<2>) -> Tensor<2>) -> Self {
        self.into_iter().map(|state| state.map_parts(f)).collect()
    }
}

/// Two states side by side.
impl<A: RecurrentState, B: RecurrentState> RecurrentState for (A, B) {
    fn map_parts(self, f: &mut dyn FnMut(Tensor<2>) -> Tensor<2>) -> Self {
        (self.0.map_parts(f), self.1.map_parts(f))
    }
}

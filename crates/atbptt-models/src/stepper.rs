//! A stack of recurrent layers one step at a time, without tensors.

use std::fmt;

use burn::tensor::Tensor;

use crate::layer::RecurrentLayer;
use crate::ops::stepper::{LayerStep, LayerWeights, layer};
use crate::stack::Stack;
use crate::{ModelError, RecurrentState};

/// A trained [`Stack`] that reads its input as it comes: audio, sensors, keystrokes.
///
/// [`Stack::forward`] on a window of one step answers alike, but makes tensors, and reads the weights in an order that suits a
/// whole window. A stepper packs the weights once and then runs on the calling thread, in `f32`, without allocating:
/// its time per step hardly varies. Dropout is off. Later changes of the stack's weights do not reach it.
///
/// ```
/// use atbptt_models::{GruLayer, StackConfig, Stepper};
/// use burn::tensor::Device;
///
/// let gru = StackConfig::<GruLayer>::new(3, 8).with_layers(2).init(&Device::default())?;
/// let mut stepper = Stepper::new(&gru, 1)?;
/// for input in [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]] {
///     let output = stepper.step(&input)?;
///     assert_eq!(output.len(), 8);
/// }
/// # Ok::<(), atbptt_models::ModelError>(())
/// ```
pub struct Stepper {
    layers: Vec<Box<dyn LayerStep>>,
    batch: usize,
    inputs: usize,
    hidden: usize,
}

impl fmt::Debug for Stepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stepper")
            .field("layers", &self.layers.len())
            .field("batch", &self.batch)
            .field("inputs", &self.inputs)
            .field("hidden", &self.hidden)
            .finish()
    }
}

impl Stepper {
    /// Takes `batch` sequences side by side through `stack`, from states of zeros.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] when `batch` is zero or the stack has no layer; [`ModelError::DType`] when the weights are not
    /// floating-point numbers that `f32` can hold.
    pub fn new<L: RecurrentLayer>(stack: &Stack<L>, batch: usize) -> Result<Self, ModelError> {
        for (field, count) in [("batch", batch), ("layers", stack.layers.len())] {
            if count == 0 {
                return Err(ModelError::Config {
                    field,
                    rule: "at least one",
                    got: count.to_string(),
                    remedy: "a step needs a sequence and a layer",
                });
            }
        }
        let layers = stack.layers.iter().map(|of| {
            let (weights, hidden) = (of.weights(), of.d_hidden());
            let zeros = |count: usize| vec![0.0; count * hidden];
            let apart = usize::from(L::CELL.has_recurrent_bias());
            Ok(layer(
                L::CELL,
                LayerWeights {
                    batch,
                    inputs: of.d_input(),
                    hidden,
                    input: values("an input weight", weights.input)?,
                    recurrent: optional("a recurrent weight", weights.recurrent, Vec::new)?,
                    bias: optional("a bias", weights.bias, || zeros(L::CELL.gates()))?,
                    recurrent_bias: optional("a bias", weights.recurrent_bias, || zeros(apart))?,
                },
            ))
        });
        Ok(Self {
            layers: layers.collect::<Result<_, ModelError>>()?,
            batch,
            inputs: stack.d_input(),
            hidden: stack.d_hidden(),
        })
    }

    /// One step: from the input `[batch, input]`, row by row, to the top layer's output `[batch, hidden]`. The states are
    /// carried to the next call.
    ///
    /// # Errors
    ///
    /// [`ModelError::Shape`] when the input has not `batch · input` values; the states are then as before.
    pub fn step(&mut self, input: &[f32]) -> Result<&[f32], ModelError> {
        if input.len() != self.batch * self.inputs {
            return Err(ModelError::Shape {
                what: "the input of a step",
                got: vec![input.len()],
                expected: format!("[{} x {}]", self.batch, self.inputs),
                remedy: "pass the features of every sequence, one sequence after the other",
            });
        }
        let mut below: Option<&dyn LayerStep> = None;
        for layer in &mut self.layers {
            layer.step(below.map_or(input, |below| below.output()));
            below = Some(&**layer);
        }
        Ok(below.map_or(&[], |top| top.output()))
    }

    /// Begins new sequences: all states are zero again.
    pub fn reset(&mut self) {
        for layer in &mut self.layers {
            layer.set_state(&[]);
        }
    }

    /// Goes on from `state`, one per layer, as [`Stack::forward`] returns it.
    ///
    /// # Errors
    ///
    /// [`ModelError::Shape`] when it is not of this stack and batch, [`ModelError::DType`] when it does not hold numbers that
    /// `f32` can hold; the states are then as before.
    pub fn set_state<S: RecurrentState>(&mut self, state: &[S]) -> Result<(), ModelError> {
        let shape = |got: Vec<usize>, expected: String| ModelError::Shape {
            what: "a stepper's state",
            got,
            expected,
            remedy: "pass the state that the same stack returned for as many sequences",
        };
        if state.len() != self.layers.len() {
            let expected = format!("[{}] layers", self.layers.len());
            return Err(shape(vec![state.len()], expected));
        }
        let mut all = Vec::with_capacity(state.len());
        for (state, layer) in state.iter().zip(&self.layers) {
            let parts = state.parts();
            let count = layer.parts();
            if parts.len() != count {
                return Err(shape(vec![parts.len()], format!("[{count}] parts")));
            }
            let mut of_layer = Vec::with_capacity(count);
            for part in parts {
                let dims = part.dims();
                if dims != [self.batch, self.hidden] {
                    let expected = format!("[{}, {}]", self.batch, self.hidden);
                    return Err(shape(dims.to_vec(), expected));
                }
                of_layer.push(values("a state", part)?);
            }
            all.push(of_layer);
        }
        for (parts, layer) in all.iter().zip(&mut self.layers) {
            let parts: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
            layer.set_state(&parts);
        }
        Ok(())
    }
}

/// The elements of a tensor.
fn values<const D: usize>(what: &'static str, tensor: Tensor<D>) -> Result<Vec<f32>, ModelError> {
    let got = format!("{:?}", tensor.dtype());
    let data = tensor.into_data().convert::<f32>();
    data.try_to_vec::<f32>().map_err(|_| ModelError::DType {
        what,
        expected: "floating-point numbers".to_owned(),
        got,
    })
}

/// The elements of a tensor that may be absent.
fn optional<const D: usize>(
    what: &'static str,
    tensor: Option<Tensor<D>>,
    absent: impl FnOnce() -> Vec<f32>,
) -> Result<Vec<f32>, ModelError> {
    match tensor {
        Some(tensor) => values(what, tensor),
        None => Ok(absent()),
    }
}

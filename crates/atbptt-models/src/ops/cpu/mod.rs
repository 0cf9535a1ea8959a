//! Sequence operations on CPU backends whose tensors are plain slices: Flex and NdArray, f32 and f64.
//!
//! Place in the flow: [`RecurrentKernels`](super::RecurrentKernels) of those backends call the functions of this
//! module; other element types take the reference bodies.
//!
//! 1. The input products of all steps are one large product (`product`, the `gemm` crate).
//! 2. The recurrence multiplies a few rows with weights packed once per window (`panel`), and the sums meet the
//!    pointwise part of the cell (`lstm`, `gru`, `rnn`; functions in `math`) while they are in registers. `team` shares
//!    the steps out over threads.
//! 3. Backward likewise; the gradients of weights and input are large products after the loop.
//!
//! Results do not depend on the number of threads: every sum is in one order.

mod gru;
mod host;
mod lstm;
mod math;
mod nll;
mod panel;
mod pool;
mod product;
mod rnn;
mod simd;
pub(crate) mod step;
mod team;
mod window;

use burn::backend::{TensorMetadata, tensor::FloatTensor};
use burn::tensor::DType;

use super::generic;
use super::kernels::{
    Grads, GruInput, LstmInput, Needs, NllInput, NllNeeds, NllOutput, RnnInput, Trace,
};
use host::Host;
use pool::Buffer;
use simd::Real;
use window::{Gradients, Window};

/// The tensors of a window, whatever the cell.
struct Arguments<'a, B: Host> {
    input: &'a FloatTensor<B>,
    input_weight: &'a FloatTensor<B>,
    recurrent_weight: &'a FloatTensor<B>,
    bias: &'a FloatTensor<B>,
    recurrent_bias: Option<&'a FloatTensor<B>>,
    state: &'a FloatTensor<B>,
    taps: Option<&'a FloatTensor<B>>,
    keep: Option<&'a FloatTensor<B>>,
    /// Gates with an input product.
    gates: usize,
    /// Parts of the packed state.
    parts: usize,
    /// Parts of the trace's gates; 0 where the states are all.
    traced: usize,
}

/// What the backward pass reads besides the arguments.
struct Traced<'a, E> {
    states: &'a [E],
    gates: &'a [E],
    grad: &'a [E],
}

impl<'a, B: Host> Arguments<'a, B> {
    fn lstm(args: &'a LstmInput<B>) -> Self {
        Self {
            input: &args.input,
            input_weight: &args.input_weight,
            recurrent_weight: &args.recurrent_weight,
            bias: &args.bias,
            recurrent_bias: None,
            state: &args.state,
            taps: args.taps.as_ref(),
            keep: args.keep.as_ref(),
            gates: 4,
            parts: 2,
            traced: 4,
        }
    }

    fn gru(args: &'a GruInput<B>) -> Self {
        Self {
            input: &args.input,
            input_weight: &args.input_weight,
            recurrent_weight: &args.recurrent_weight,
            bias: &args.bias,
            recurrent_bias: Some(&args.recurrent_bias),
            state: &args.state,
            taps: args.taps.as_ref(),
            keep: args.keep.as_ref(),
            gates: 3,
            parts: 1,
            traced: 4,
        }
    }

    fn rnn(args: &'a RnnInput<B>) -> Self {
        Self {
            input: &args.input,
            input_weight: &args.input_weight,
            recurrent_weight: &args.recurrent_weight,
            bias: &args.bias,
            recurrent_bias: None,
            state: &args.state,
            taps: args.taps.as_ref(),
            keep: args.keep.as_ref(),
            gates: 1,
            parts: 1,
            traced: 0,
        }
    }

    /// Runs `with` on the window's slices. `None` where a tensor is not of type `E`, is empty, or does not have the
    /// expected number of elements: then the reference body decides what that means.
    fn with<E: Real, R: Send>(
        &self,
        with: impl FnOnce(&Window<'_, E>) -> Option<R> + Send,
    ) -> Option<R> {
        let (shape, units) = (self.input.shape(), self.recurrent_weight.shape());
        let (time, batch, inputs, hidden) = (shape[0], shape[1], shape[2], units[0]);
        let input = Held::<B>::new::<E>(self.input, time * batch * inputs)?;
        let input_weight = Held::<B>::new::<E>(self.input_weight, inputs * self.gates * hidden)?;
        let recurrent_weight =
            Held::<B>::new::<E>(self.recurrent_weight, hidden * self.gates * hidden)?;
        let bias = Held::<B>::new::<E>(self.bias, self.gates * hidden)?;
        let recurrent_bias = Held::<B>::optional::<E>(self.recurrent_bias, hidden)?;
        let state = Held::<B>::new::<E>(self.state, batch * self.parts * hidden)?;
        let taps = Held::<B>::optional::<E>(self.taps, time * batch * self.parts * hidden)?;
        let keep = Held::<B>::optional::<E>(self.keep, time * batch)?;
        let window = Window {
            time,
            batch,
            inputs,
            hidden,
            input: input.elements()?,
            input_weight: input_weight.elements()?,
            recurrent_weight: recurrent_weight.elements()?,
            bias: bias.elements()?,
            recurrent_bias: match &recurrent_bias {
                Some(held) => held.elements()?,
                None => &[],
            },
            state: state.elements()?,
            taps: match &taps {
                Some(held) => Some(held.elements()?),
                None => None,
            },
            keep: match &keep {
                Some(held) => Some(held.elements()?),
                None => None,
            },
        };
        team::inside(|| with(&window))
    }

    fn backward<E: Real>(
        &self,
        trace: &Trace<B>,
        grad: &FloatTensor<B>,
        pass: impl FnOnce(&Window<'_, E>, Traced<'_, E>) -> Gradients<E> + Send,
    ) -> Option<Grads<B>> {
        self.with::<E, _>(|window| {
            let values = window.rows() * window.hidden;
            let states = Held::<B>::new::<E>(&trace.states, values * self.parts)?;
            let gates = match self.traced {
                0 => None,
                parts => Some(Held::<B>::new::<E>(&trace.gates, values * parts)?),
            };
            let grad = Held::<B>::new::<E>(grad, values * self.parts)?;
            let traced = Traced {
                states: states.elements()?,
                gates: match &gates {
                    Some(gates) => gates.elements()?,
                    None => &[],
                },
                grad: grad.elements()?,
            };
            let out = pass(window, traced);
            let tensor = |data: Option<Buffer<E>>, like: Vec<usize>| {
                data.map(|data| B::tensor::<E>(data, like))
            };
            let shape = |tensor: &FloatTensor<B>| tensor.shape().to_vec();
            let states = vec![window.time, window.batch, self.parts * window.hidden];
            Some(Grads {
                input: tensor(out.input, shape(self.input)),
                input_weight: tensor(out.input_weight, shape(self.input_weight)),
                recurrent_weight: tensor(out.recurrent_weight, shape(self.recurrent_weight)),
                bias: tensor(out.bias, shape(self.bias)),
                recurrent_bias: tensor(out.recurrent_bias, vec![window.hidden]),
                state: B::tensor::<E>(out.state, states[1..].to_vec()),
                taps: tensor(out.taps, states),
            })
        })
    }

    /// `[T, B, parts · H]` from a forward pass.
    fn output<E: Real>(
        &self,
        window: &Window<'_, E>,
        data: Buffer<E>,
        parts: usize,
    ) -> FloatTensor<B> {
        B::tensor::<E>(data, vec![window.time, window.batch, parts * window.hidden])
    }
}

/// A contiguous tensor of known type and size.
struct Held<B: Host>(FloatTensor<B>);

impl<B: Host> Held<B> {
    fn new<E: Real>(tensor: &FloatTensor<B>, elements: usize) -> Option<Self> {
        (tensor.dtype() == E::dtype() && elements > 0 && tensor.shape().num_elements() == elements)
            .then(|| Self(B::contiguous(tensor.clone())))
    }

    /// The outer option says whether a given tensor is acceptable.
    fn optional<E: Real>(tensor: Option<&FloatTensor<B>>, elements: usize) -> Option<Option<Self>> {
        match tensor {
            Some(tensor) => Self::new::<E>(tensor, elements).map(Some),
            None => Some(None),
        }
    }

    fn elements<E: Real>(&self) -> Option<&[E]> {
        B::elements::<E>(&self.0)
    }
}

/// Runs the body with `$E` as f32 or f64, after the tensor; other types give `None`.
macro_rules! by_type {
    ($tensor:expr, $E:ident => $body:expr) => {
        match $tensor.dtype() {
            DType::F32 => {
                type $E = f32;
                $body
            }
            DType::F64 => {
                type $E = f64;
                $body
            }
            _ => None,
        }
    };
}

use by_type;

pub(crate) fn lstm_forward<B: Host>(input: LstmInput<B>) -> Trace<B> {
    let args = Arguments::lstm(&input);
    by_type!(input.input, E => args.with::<E, _>(|window| {
        let [states, gates] = lstm::forward(window);
        Some(Trace {
            states: args.output(window, states, 2),
            gates: args.output(window, gates, 4),
        })
    }))
    .unwrap_or_else(|| generic::lstm_forward::<B>(input))
}

pub(crate) fn lstm_backward<B: Host>(
    input: LstmInput<B>,
    trace: Trace<B>,
    grad: FloatTensor<B>,
    needs: Needs,
) -> Grads<B> {
    let args = Arguments::lstm(&input);
    by_type!(input.input, E => args.backward::<E>(&trace, &grad, |window, traced| {
        lstm::backward(window, traced.states, traced.gates, traced.grad, needs)
    }))
    .unwrap_or_else(|| generic::lstm_backward::<B>(input, trace, grad, needs))
}

pub(crate) fn gru_forward<B: Host>(input: GruInput<B>) -> Trace<B> {
    let args = Arguments::gru(&input);
    by_type!(input.input, E => args.with::<E, _>(|window| {
        let [states, gates] = gru::forward(window);
        Some(Trace {
            states: args.output(window, states, 1),
            gates: args.output(window, gates, 4),
        })
    }))
    .unwrap_or_else(|| generic::gru_forward::<B>(input))
}

pub(crate) fn gru_backward<B: Host>(
    input: GruInput<B>,
    trace: Trace<B>,
    grad: FloatTensor<B>,
    needs: Needs,
) -> Grads<B> {
    let args = Arguments::gru(&input);
    by_type!(input.input, E => args.backward::<E>(&trace, &grad, |window, traced| {
        gru::backward(window, traced.states, traced.gates, traced.grad, needs)
    }))
    .unwrap_or_else(|| generic::gru_backward::<B>(input, trace, grad, needs))
}

pub(crate) fn rnn_forward<B: Host>(input: RnnInput<B>) -> Trace<B> {
    let args = Arguments::rnn(&input);
    by_type!(input.input, E => args.with::<E, _>(|window| {
        let states = args.output(window, rnn::forward(window), 1);
        Some(Trace {
            gates: states.clone(),
            states,
        })
    }))
    .unwrap_or_else(|| generic::rnn_forward::<B>(input))
}

pub(crate) fn rnn_backward<B: Host>(
    input: RnnInput<B>,
    trace: Trace<B>,
    grad: FloatTensor<B>,
    needs: Needs,
) -> Grads<B> {
    let args = Arguments::rnn(&input);
    by_type!(input.input, E => args.backward::<E>(&trace, &grad, |window, traced| {
        rnn::backward(window, traced.states, traced.grad, needs)
    }))
    .unwrap_or_else(|| generic::rnn_backward::<B>(input, trace, grad, needs))
}

pub(crate) fn linear_nll<B: Host + super::RecurrentKernels>(
    input: NllInput<B>,
    needs: NllNeeds,
) -> NllOutput<B> {
    by_type!(input.hidden, E => linear_nll_of::<E, B>(&input, needs))
        .unwrap_or_else(|| super::nll::linear_nll::<B>(input, needs))
}

fn linear_nll_of<E: Real, B: Host>(input: &NllInput<B>, needs: NllNeeds) -> Option<NllOutput<B>> {
    let (rows, classes) = (input.hidden.shape()[0], input.weight.shape()[0]);
    let features = input.hidden.shape()[1];
    let hidden = Held::<B>::new::<E>(&input.hidden, rows * features)?;
    let weight = Held::<B>::new::<E>(&input.weight, classes * features)?;
    let bias = Held::<B>::optional::<E>(input.bias.as_ref(), classes)?;
    let row_weights = Held::<B>::optional::<E>(input.row_weights.as_ref(), rows)?;
    let targets = B::indices(&input.targets, classes).filter(|targets| targets.len() == rows)?;
    let args = nll::Arguments {
        rows,
        features,
        classes,
        hidden: hidden.elements::<E>()?,
        weight: weight.elements()?,
        bias: match &bias {
            Some(held) => Some(held.elements()?),
            None => None,
        },
        targets: &targets,
        row_weights: match &row_weights {
            Some(held) => Some(held.elements()?),
            None => None,
        },
    };
    let out = team::inside(|| nll::linear_nll(&args, needs));
    Some(NllOutput {
        loss: B::tensor(Buffer::from(&[out.loss][..]), vec![1]),
        rows: B::tensor(out.rows, vec![rows]),
        hidden: out.hidden.map(|data| B::tensor(data, vec![rows, features])),
        weight: out
            .weight
            .map(|data| B::tensor(data, vec![classes, features])),
        bias: out.bias.map(|data| B::tensor(data, vec![classes])),
    })
}

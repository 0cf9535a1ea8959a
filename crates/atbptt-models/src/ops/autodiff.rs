//! The operations on an autodiff backend: one node each, so one per layer and window.
//!
//! A node keeps the operation's arguments and the activations that its forward pass saved, and asks the backward pass only for
//! the gradients of tracked parents: with nothing but taps tracked, no weight gradient is computed.

use burn::backend::{
    Autodiff, TensorMetadata,
    autodiff::{
        checkpoint::{
            base::Checkpointer,
            strategy::{CheckpointStrategy, NoCheckpointing},
        },
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::FloatDType;

use super::cell::Cell;
use super::extension::RecurrentOps;
use super::types::{
    Arguments, DropoutMask, NeedsGrad, NllArguments, NllNeedsGrad, Optional, SavedActivations,
};

/// A tensor of the autodiff backend; the same type whatever its checkpointing.
type Tracked<B> = FloatTensor<Autodiff<B, NoCheckpointing>>;

/// Registers a gradient with its parent, where the parent is tracked and the gradient was computed.
macro_rules! register {
    ($grads:ident, $B:ident, $($node:expr => $value:expr),+ $(,)?) => {
        $(if let (Some(node), Some(value)) = ($node, $value) {
            $grads.register::<$B>(node.id, value);
        })+
    };
}

/// Runs an operation with a tracked parent, or without.
macro_rules! finish {
    ($prepared:expr, $state:expr, $out:expr) => {
        match $prepared.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish($state, $out),
            OpsKind::UnTracked(prep) => prep.finish($out),
        }
    };
}

/// [`RecurrentOps::sequence`], whatever the cell.
#[derive(Debug)]
struct Sequence;

impl<B: RecurrentOps> Backward<B, 7> for Sequence {
    type State = (Cell, Arguments<B>, SavedActivations<B>);

    fn backward(self, ops: Ops<Self::State, 7>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (cell, args, saved) = ops.state;
        let [
            input,
            input_weight,
            recurrent_weight,
            bias,
            recurrent_bias,
            state,
            taps,
        ] = ops.parents;
        // Another parent holds the place of an absent one.
        let recurrent_weight = recurrent_weight.filter(|_| args.recurrent_weight.is_given());
        let recurrent_bias = recurrent_bias.filter(|_| args.recurrent_bias.is_given());
        let taps = taps.filter(|_| args.taps.is_given());
        let grad = grads.consume::<B>(&ops.node);
        let needs = NeedsGrad {
            input: input.is_some(),
            input_weight: input_weight.is_some(),
            recurrent_weight: recurrent_weight.is_some(),
            bias: bias.is_some() || recurrent_bias.is_some(),
            taps: taps.is_some(),
        };
        let out = B::sequence_backward(cell, args, saved, grad, needs);
        register!(grads, B,
            input => out.input,
            input_weight => out.input_weight,
            recurrent_weight => out.recurrent_weight,
            bias => out.bias,
            recurrent_bias => out.recurrent_bias,
            state => Some(out.state),
            taps => out.taps,
        );
    }
}

/// [`RecurrentOps::linear_nll`]: its gradients were computed with the loss, and are only scaled here; that of the weight may
/// have been left for here, which saves a pass over it.
#[derive(Debug)]
struct Nll;

/// What the loss leaves to the backward pass.
#[derive(Clone, Debug)]
struct NllGradients<B: RecurrentOps> {
    /// Of hidden rows, weight and bias.
    ready: [Option<FloatTensor<B>>; 3],
    /// Gradient at the logits, and the hidden rows.
    logits: Option<[FloatTensor<B>; 2]>,
}

impl<B: RecurrentOps> Backward<B, 3> for Nll {
    type State = NllGradients<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        // Losses of half types are f32.
        let factor = |like: &FloatTensor<B>| match like.dtype() == grad.dtype() {
            true => grad.clone(),
            false => B::float_cast(grad.clone(), like.dtype().into()),
        };
        let NllGradients { ready, logits } = ops.state;
        if let ([_, Some(weight), _], Some([logits, hidden])) = (&ops.parents, logits) {
            let factor = factor(&logits);
            let value = B::linear_nll_weight_gradient(logits, hidden, factor);
            grads.register::<B>(weight.id, value);
        }
        for (node, value) in ops.parents.into_iter().zip(ready) {
            if let (Some(node), Some(value)) = (node, value) {
                let factor = factor(&value);
                grads.register::<B>(node.id, B::scale_by(value, factor));
            }
        }
    }
}

/// [`RecurrentOps::linear_nll_rows`]: the factors of the rows are known only in the backward pass, which computes all again.
#[derive(Debug)]
struct NllRows;

impl<B: RecurrentOps> Backward<B, 3> for NllRows {
    type State = NllArguments<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let row_weights = Optional::Given(grads.consume::<B>(&ops.node));
        let [hidden, weight, bias] = ops.parents;
        let bias = bias.filter(|_| ops.state.bias.is_given());
        let needs = NllNeedsGrad {
            hidden: hidden.is_some(),
            weight: weight.is_some(),
            bias: bias.is_some(),
        };
        let args = NllArguments {
            row_weights,
            ..ops.state
        };
        let out = B::linear_nll_forward(args, needs);
        register!(grads, B, hidden => out.hidden, weight => out.weight, bias => out.bias);
    }
}

/// [`RecurrentOps::first_features`]; the state is S.
#[derive(Debug)]
struct FirstFeatures;

impl<B: RecurrentOps> Backward<B, 1> for FirstFeatures {
    type State = usize;

    fn backward(self, ops: Ops<usize, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(parent)] = ops.parents {
            grads.register::<B>(parent.id, B::first_features_backward(grad, ops.state));
        }
    }
}

/// [`RecurrentOps::embedding_rows`].
#[derive(Debug)]
struct Embedding;

impl<B: RecurrentOps> Backward<B, 1> for Embedding {
    /// The weight is kept as it was tracked: only with it can its gradient so far be taken out and added to.
    type State = (Tracked<B>, IntTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (weight, tokens) = ops.state;
        if let [Some(parent)] = ops.parents {
            let so_far = grads.remove::<B>(&weight);
            let rows = weight.shape()[0];
            let sum = B::embedding_rows_backward(so_far, rows, tokens, grad);
            grads.register::<B>(parent.id, sum);
        }
    }
}

/// [`RecurrentOps::dropout`].
#[derive(Debug)]
struct Dropout;

impl<B: RecurrentOps> Backward<B, 1> for Dropout {
    type State = (DropoutMask<B>, f64);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (mask, prob) = ops.state;
        if let [Some(parent)] = ops.parents {
            grads.register::<B>(parent.id, B::dropout_backward(grad, mask, prob));
        }
    }
}

/// [`RecurrentOps::recast`].
#[derive(Debug)]
struct Recast;

impl<B: RecurrentOps> Backward<B, 1> for Recast {
    /// Type of the input, and the factor.
    type State = (FloatDType, f64);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (dtype, factor) = ops.state;
        if let [Some(parent)] = ops.parents {
            let grad = B::float_cast(grad, dtype);
            let grad = match factor == 1.0 {
                true => grad,
                false => B::scale(grad, factor),
            };
            grads.register::<B>(parent.id, grad);
        }
    }
}

impl<B: RecurrentOps, C: CheckpointStrategy> RecurrentOps for Autodiff<B, C> {
    fn sequence(cell: Cell, args: Arguments<Self>) -> FloatTensor<Self> {
        let or_state = |tensor: &Optional<Self>| tensor.as_option().unwrap_or(&args.state).node();
        let prepared = Sequence
            .prepare::<C>([
                args.input.node(),
                args.input_weight.node(),
                or_state(&args.recurrent_weight),
                args.bias.node(),
                or_state(&args.recurrent_bias),
                args.state.node(),
                or_state(&args.taps),
            ])
            .compute_bound()
            .stateful();
        let args = Arguments::<B> {
            input: args.input.into_primitive(),
            input_weight: args.input_weight.into_primitive(),
            recurrent_weight: inner(args.recurrent_weight),
            bias: args.bias.into_primitive(),
            recurrent_bias: inner(args.recurrent_bias),
            state: args.state.into_primitive(),
            taps: inner(args.taps),
            reset_mask: inner(args.reset_mask),
        };
        match prepared {
            OpsKind::Tracked(prep) => {
                let saved = B::sequence_forward(cell, args.clone());
                let states = saved.states.clone();
                prep.finish((cell, args, saved), states)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::sequence_forward(cell, args).states),
        }
    }

    fn linear_nll(args: NllArguments<Self>) -> FloatTensor<Self> {
        let bias = args.bias.as_option().unwrap_or(&args.hidden);
        let needs = NllNeedsGrad {
            hidden: args.hidden.is_tracked(),
            weight: args.weight.is_tracked(),
            bias: args.bias.is_given() && bias.is_tracked(),
        };
        let prepared = Nll
            .prepare::<C>([args.hidden.node(), args.weight.node(), bias.node()])
            .compute_bound()
            .stateful();
        let args = inner_nll(args);
        match prepared {
            OpsKind::Tracked(prep) => {
                let hidden = args.hidden.clone();
                let (out, logits) = B::linear_nll_tracked(args, needs);
                let gradients = NllGradients {
                    ready: [out.hidden, out.weight, out.bias],
                    logits: logits.map(|logits| [logits, hidden]),
                };
                prep.finish(gradients, out.loss)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::linear_nll_forward(args, NllNeedsGrad::default()).loss)
            }
        }
    }

    fn linear_nll_rows(args: NllArguments<Self>) -> FloatTensor<Self> {
        let bias = args.bias.as_option().unwrap_or(&args.hidden);
        let prepared = NllRows.prepare::<C>([args.hidden.node(), args.weight.node(), bias.node()]);
        let args = inner_nll(args);
        let rows = B::linear_nll_forward(args.clone(), NllNeedsGrad::default()).rows;
        finish!(prepared, args, rows)
    }

    fn first_features(tensor: FloatTensor<Self>, count: usize) -> FloatTensor<Self> {
        let size = tensor.shape()[2];
        let prepared = FirstFeatures.prepare::<C>([tensor.node()]);
        let out = B::first_features_forward(tensor.into_primitive(), count);
        finish!(prepared, size, out)
    }

    fn embedding_rows(weight: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self> {
        let prepared = Embedding.prepare::<C>([weight.node()]);
        let out = B::embedding_rows_forward(weight.primitive().clone(), tokens.clone());
        finish!(prepared, (weight, tokens), out)
    }

    fn dropout(tensor: FloatTensor<Self>, prob: f64) -> FloatTensor<Self> {
        let prepared = Dropout.prepare::<C>([tensor.node()]);
        let (out, mask) = B::dropout_forward(tensor.into_primitive(), prob);
        finish!(prepared, (mask, prob), out)
    }

    fn recast(tensor: FloatTensor<Self>, dtype: FloatDType, factor: f64) -> FloatTensor<Self> {
        let from = tensor.dtype().into();
        let prepared = Recast.prepare::<C>([tensor.node()]);
        let out = B::float_cast(tensor.into_primitive(), dtype);
        finish!(prepared, (from, factor), out)
    }

    fn sum_of_squares(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        Tracked::<B>::new(B::sum_of_squares(tensor.into_primitive()))
    }

    fn scale(tensor: FloatTensor<Self>, factor: f64) -> FloatTensor<Self> {
        Tracked::<B>::new(B::scale(tensor.into_primitive(), factor))
    }

    fn sgd_step(
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        rate: f64,
        decay: f64,
    ) -> FloatTensor<Self> {
        let (weight, grad) = (weight.into_primitive(), grad.into_primitive());
        Tracked::<B>::new(B::sgd_step(weight, grad, rate, decay))
    }
}

/// The tensor without its graph.
fn inner<B: RecurrentOps, C: CheckpointStrategy>(tensor: Optional<Autodiff<B, C>>) -> Optional<B> {
    tensor
        .into_option()
        .map(|tensor| tensor.into_primitive())
        .into()
}

fn inner_nll<B: RecurrentOps, C: CheckpointStrategy>(
    args: NllArguments<Autodiff<B, C>>,
) -> NllArguments<B> {
    NllArguments {
        hidden: args.hidden.into_primitive(),
        weight: args.weight.into_primitive(),
        bias: inner(args.bias),
        targets: args.targets,
        row_weights: inner(args.row_weights),
    }
}

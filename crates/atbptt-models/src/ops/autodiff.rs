//! The sequence operations on an autodiff backend: one node per layer and window.
//!
//! Each node keeps the operation's input and the trace of its forward pass, and asks the backward pass only for
//! the gradients of tracked parents: with nothing but taps tracked, no weight gradient is computed.

use burn::backend::{
    Autodiff, TensorMetadata,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::{FloatTensor, IntTensor},
};

use super::kernels::{GruInput, LstmInput, Needs, NllInput, NllNeeds, RnnInput, Trace};
use super::{Present, RecurrentOps};

/// Registers a gradient with its parent, where the parent is tracked and the gradient was computed.
macro_rules! register {
    ($grads:ident, $B:ident, $($node:ident => $value:expr),+ $(,)?) => {
        $(if let (Some(node), Some(value)) = ($node, $value) {
            $grads.register::<$B>(node.id, value);
        })+
    };
}

/// The autodiff node of one cell, and the function that runs the cell through it.
macro_rules! sequence_node {
    (
        $node:ident, $run:ident, $input:ident, $forward:ident, $backward:ident, $parents:literal,
        weights: [$input_weight:ident, $recurrent_weight:ident], biases: [$($bias:ident),+]
    ) => {
        #[derive(Debug)]
        struct $node;

        impl<B: RecurrentOps> Backward<B, $parents> for $node {
            type State = ($input<B>, Trace<B>);

            fn backward(
                self,
                ops: Ops<Self::State, $parents>,
                grads: &mut Gradients,
                _: &mut Checkpointer,
            ) {
                let [input, $input_weight, $recurrent_weight, $($bias,)+ state, taps] = ops.parents;
                let grad = grads.consume::<B>(&ops.node);
                let (args, trace) = ops.state;
                let needs = Needs {
                    input: input.is_some(),
                    $input_weight: $input_weight.is_some(),
                    $recurrent_weight: $recurrent_weight.is_some(),
                    bias: false $(|| $bias.is_some())+,
                    taps: taps.is_some() && args.taps.is_some(),
                };
                let out = B::$backward(args, trace, grad, needs);
                register!(grads, B,
                    input => out.input,
                    $input_weight => out.$input_weight,
                    $recurrent_weight => out.$recurrent_weight,
                    $($bias => out.$bias,)+
                    state => Some(out.state),
                    taps => out.taps,
                );
            }
        }

        #[allow(clippy::too_many_arguments)]
        fn $run<B: RecurrentOps, C: CheckpointStrategy>(
            input: Tracked<B, C>,
            $input_weight: Tracked<B, C>,
            $recurrent_weight: Tracked<B, C>,
            $($bias: Tracked<B, C>,)+
            state: Tracked<B, C>,
            taps: Tracked<B, C>,
            keep: Tracked<B, C>,
            present: Present,
        ) -> Tracked<B, C> {
            let prepared = $node
                .prepare::<C>([
                    input.node(),
                    $input_weight.node(),
                    $recurrent_weight.node(),
                    $($bias.node(),)+
                    state.node(),
                    taps.node(),
                ])
                .compute_bound()
                .stateful();
            let args = $input::<B> {
                input: input.into_primitive(),
                $input_weight: $input_weight.into_primitive(),
                $recurrent_weight: $recurrent_weight.into_primitive(),
                $($bias: $bias.into_primitive(),)+
                state: state.into_primitive(),
                taps: present.taps.then(|| taps.into_primitive()),
                keep: present.keep.then(|| keep.into_primitive()),
            };
            match prepared {
                OpsKind::Tracked(prep) => {
                    let trace = B::$forward(args.clone());
                    let states = trace.states.clone();
                    prep.finish((args, trace), states)
                }
                OpsKind::UnTracked(prep) => prep.finish(B::$forward(args).states),
            }
        }
    };
}

/// A tensor of the autodiff backend.
type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

sequence_node!(
    LstmNode, lstm, LstmInput, lstm_forward, lstm_backward, 6,
    weights: [input_weight, recurrent_weight], biases: [bias]
);
sequence_node!(
    GruNode, gru, GruInput, gru_forward, gru_backward, 7,
    weights: [input_weight, recurrent_weight], biases: [bias, recurrent_bias]
);
sequence_node!(
    RnnNode, rnn, RnnInput, rnn_forward, rnn_backward, 6,
    weights: [input_weight, recurrent_weight], biases: [bias]
);

/// The loss node: its gradients were computed with the loss, and are only scaled here.
#[derive(Debug)]
struct NllNode;

impl<B: RecurrentOps> Backward<B, 3> for NllNode {
    type State = [Option<FloatTensor<B>>; 3];

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        for (node, value) in ops.parents.into_iter().zip(ops.state) {
            if let (Some(node), Some(value)) = (node, value) {
                // Losses of half types are f32.
                let factor = match value.dtype() == grad.dtype() {
                    true => grad.clone(),
                    false => B::float_cast(grad.clone(), value.dtype().into()),
                };
                grads.register::<B>(node.id, B::scale_by(value, factor));
            }
        }
    }
}

/// The loss of every row: the factors of the rows are known only in the backward pass, which computes all again.
#[derive(Debug)]
struct NllRowsNode;

impl<B: RecurrentOps> Backward<B, 3> for NllRowsNode {
    type State = NllInput<B>;

    fn backward(self, ops: Ops<NllInput<B>, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let row_weights = Some(grads.consume::<B>(&ops.node));
        let [hidden, weight, bias] = ops.parents;
        let needs = NllNeeds {
            hidden: hidden.is_some(),
            weight: weight.is_some(),
            bias: bias.is_some() && ops.state.bias.is_some(),
        };
        let out = B::linear_nll_forward(
            NllInput {
                row_weights,
                ..ops.state
            },
            needs,
        );
        register!(grads, B, hidden => out.hidden, weight => out.weight, bias => out.bias);
    }
}

impl<B: RecurrentOps, C: CheckpointStrategy> RecurrentOps for Autodiff<B, C> {
    fn lstm_sequence(
        input: FloatTensor<Self>,
        input_weight: FloatTensor<Self>,
        recurrent_weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        state: FloatTensor<Self>,
        taps: FloatTensor<Self>,
        keep: FloatTensor<Self>,
        present: Present,
    ) -> FloatTensor<Self> {
        lstm::<B, C>(
            input,
            input_weight,
            recurrent_weight,
            bias,
            state,
            taps,
            keep,
            present,
        )
    }

    fn gru_sequence(
        input: FloatTensor<Self>,
        input_weight: FloatTensor<Self>,
        recurrent_weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        recurrent_bias: FloatTensor<Self>,
        state: FloatTensor<Self>,
        taps: FloatTensor<Self>,
        keep: FloatTensor<Self>,
        present: Present,
    ) -> FloatTensor<Self> {
        gru::<B, C>(
            input,
            input_weight,
            recurrent_weight,
            bias,
            recurrent_bias,
            state,
            taps,
            keep,
            present,
        )
    }

    fn rnn_sequence(
        input: FloatTensor<Self>,
        input_weight: FloatTensor<Self>,
        recurrent_weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        state: FloatTensor<Self>,
        taps: FloatTensor<Self>,
        keep: FloatTensor<Self>,
        present: Present,
    ) -> FloatTensor<Self> {
        rnn::<B, C>(
            input,
            input_weight,
            recurrent_weight,
            bias,
            state,
            taps,
            keep,
            present,
        )
    }

    fn linear_nll(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
        has_bias: bool,
    ) -> FloatTensor<Self> {
        let needs = NllNeeds {
            hidden: hidden.is_tracked(),
            weight: weight.is_tracked(),
            bias: has_bias && bias.is_tracked(),
        };
        let prepared = NllNode
            .prepare::<C>([hidden.node(), weight.node(), bias.node()])
            .compute_bound()
            .stateful();
        let args = NllInput::<B> {
            hidden: hidden.into_primitive(),
            weight: weight.into_primitive(),
            bias: has_bias.then(|| bias.into_primitive()),
            targets,
            row_weights: None,
        };
        match prepared {
            OpsKind::Tracked(prep) => {
                let out = B::linear_nll_forward(args, needs);
                prep.finish([out.hidden, out.weight, out.bias], out.loss)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::linear_nll_forward(args, NllNeeds::default()).loss)
            }
        }
    }
    fn linear_nll_rows(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
        has_bias: bool,
    ) -> FloatTensor<Self> {
        let prepared = NllRowsNode
            .prepare::<C>([hidden.node(), weight.node(), bias.node()])
            .compute_bound()
            .stateful();
        let args = NllInput::<B> {
            hidden: hidden.into_primitive(),
            weight: weight.into_primitive(),
            bias: has_bias.then(|| bias.into_primitive()),
            targets,
            row_weights: None,
        };
        let rows = B::linear_nll_forward(args.clone(), NllNeeds::default()).rows;
        match prepared {
            OpsKind::Tracked(prep) => prep.finish(args, rows),
            OpsKind::UnTracked(prep) => prep.finish(rows),
        }
    }
}

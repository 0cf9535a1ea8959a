//! The sequence operations on an autodiff backend: one node per layer and window.
//!
//! Each node keeps the operation's input and the trace of its forward pass, and asks the backward pass only for
//! the gradients of tracked parents: with nothing but taps tracked, no weight gradient is computed.

use burn::backend::{
    Autodiff,
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

#[derive(Debug)]
struct LstmNode;

impl<B: RecurrentOps> Backward<B, 6> for LstmNode {
    type State = (LstmInput<B>, Trace<B>);

    fn backward(self, ops: Ops<Self::State, 6>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [input, input_weight, recurrent_weight, bias, state, taps] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (args, trace) = ops.state;
        let needs = Needs {
            input: input.is_some(),
            input_weight: input_weight.is_some(),
            recurrent_weight: recurrent_weight.is_some(),
            bias: bias.is_some(),
            taps: taps.is_some() && args.taps.is_some(),
        };
        let out = B::lstm_backward(args, trace, grad, needs);
        register!(grads, B,
            input => out.input,
            input_weight => out.input_weight,
            recurrent_weight => out.recurrent_weight,
            bias => out.bias,
            state => Some(out.state),
            taps => out.taps,
        );
    }
}

#[derive(Debug)]
struct GruNode;

impl<B: RecurrentOps> Backward<B, 7> for GruNode {
    type State = (GruInput<B>, Trace<B>);

    fn backward(self, ops: Ops<Self::State, 7>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [
            input,
            input_weight,
            recurrent_weight,
            bias,
            recurrent_bias,
            state,
            taps,
        ] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (args, trace) = ops.state;
        let needs = Needs {
            input: input.is_some(),
            input_weight: input_weight.is_some(),
            recurrent_weight: recurrent_weight.is_some(),
            bias: bias.is_some() || recurrent_bias.is_some(),
            taps: taps.is_some() && args.taps.is_some(),
        };
        let out = B::gru_backward(args, trace, grad, needs);
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

#[derive(Debug)]
struct RnnNode;

impl<B: RecurrentOps> Backward<B, 6> for RnnNode {
    type State = (RnnInput<B>, Trace<B>);

    fn backward(self, ops: Ops<Self::State, 6>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [input, input_weight, recurrent_weight, bias, state, taps] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (args, trace) = ops.state;
        let needs = Needs {
            input: input.is_some(),
            input_weight: input_weight.is_some(),
            recurrent_weight: recurrent_weight.is_some(),
            bias: bias.is_some(),
            taps: taps.is_some() && args.taps.is_some(),
        };
        let out = B::rnn_backward(args, trace, grad, needs);
        register!(grads, B,
            input => out.input,
            input_weight => out.input_weight,
            recurrent_weight => out.recurrent_weight,
            bias => out.bias,
            state => Some(out.state),
            taps => out.taps,
        );
    }
}

/// The loss node: its gradients were computed with the loss, and are only scaled here.
#[derive(Debug)]
struct NllNode;

impl<B: RecurrentOps> Backward<B, 3> for NllNode {
    type State = [Option<FloatTensor<B>>; 3];

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        for (node, value) in ops.parents.into_iter().zip(ops.state) {
            if let (Some(node), Some(value)) = (node, value) {
                grads.register::<B>(node.id, super::nll::scale::<B>(value, grad.clone()));
            }
        }
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
        let prepared = LstmNode
            .prepare::<C>([
                input.node(),
                input_weight.node(),
                recurrent_weight.node(),
                bias.node(),
                state.node(),
                taps.node(),
            ])
            .compute_bound()
            .stateful();
        let args = LstmInput::<B> {
            input: input.into_primitive(),
            input_weight: input_weight.into_primitive(),
            recurrent_weight: recurrent_weight.into_primitive(),
            bias: bias.into_primitive(),
            state: state.into_primitive(),
            taps: present.taps.then(|| taps.into_primitive()),
            keep: present.keep.then(|| keep.into_primitive()),
        };
        match prepared {
            OpsKind::Tracked(prep) => {
                let trace = B::lstm_forward(args.clone());
                let states = trace.states.clone();
                prep.finish((args, trace), states)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::lstm_forward(args).states),
        }
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
        let prepared = GruNode
            .prepare::<C>([
                input.node(),
                input_weight.node(),
                recurrent_weight.node(),
                bias.node(),
                recurrent_bias.node(),
                state.node(),
                taps.node(),
            ])
            .compute_bound()
            .stateful();
        let args = GruInput::<B> {
            input: input.into_primitive(),
            input_weight: input_weight.into_primitive(),
            recurrent_weight: recurrent_weight.into_primitive(),
            bias: bias.into_primitive(),
            recurrent_bias: recurrent_bias.into_primitive(),
            state: state.into_primitive(),
            taps: present.taps.then(|| taps.into_primitive()),
            keep: present.keep.then(|| keep.into_primitive()),
        };
        match prepared {
            OpsKind::Tracked(prep) => {
                let trace = B::gru_forward(args.clone());
                let states = trace.states.clone();
                prep.finish((args, trace), states)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::gru_forward(args).states),
        }
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
        let prepared = RnnNode
            .prepare::<C>([
                input.node(),
                input_weight.node(),
                recurrent_weight.node(),
                bias.node(),
                state.node(),
                taps.node(),
            ])
            .compute_bound()
            .stateful();
        let args = RnnInput::<B> {
            input: input.into_primitive(),
            input_weight: input_weight.into_primitive(),
            recurrent_weight: recurrent_weight.into_primitive(),
            bias: bias.into_primitive(),
            state: state.into_primitive(),
            taps: present.taps.then(|| taps.into_primitive()),
            keep: present.keep.then(|| keep.into_primitive()),
        };
        match prepared {
            OpsKind::Tracked(prep) => {
                let trace = B::rnn_forward(args.clone());
                let states = trace.states.clone();
                prep.finish((args, trace), states)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::rnn_forward(args).states),
        }
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
}

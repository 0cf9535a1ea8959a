//! The step's operations on an autodiff backend.

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

use super::StepOps;
use super::kernels::DropoutMask;

/// A tensor of the autodiff backend; the same type whatever its checkpointing.
type Tracked<B> = FloatTensor<Autodiff<B, NoCheckpointing>>;

/// [`StepOps::first_features`]; the state is S.
#[derive(Debug)]
struct FirstFeatures;

impl<B: StepOps> Backward<B, 1> for FirstFeatures {
    type State = usize;

    fn backward(self, ops: Ops<usize, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(parent)] = ops.parents {
            grads.register::<B>(parent.id, B::first_features_backward(grad, ops.state));
        }
    }
}

/// [`StepOps::embed`].
#[derive(Debug)]
struct Embed;

impl<B: StepOps> Backward<B, 1> for Embed {
    /// The weight is kept as it was tracked: only with it can its gradient so far be taken out and added to.
    type State = (Tracked<B>, IntTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (weight, tokens) = ops.state;
        if let [Some(parent)] = ops.parents {
            let so_far = grads.remove::<B>(&weight);
            let rows = weight.shape()[0];
            let sum = B::embed_backward(so_far, rows, tokens, grad);
            grads.register::<B>(parent.id, sum);
        }
    }
}

/// [`StepOps::drop_out`].
#[derive(Debug)]
struct DropOut;

impl<B: StepOps> Backward<B, 1> for DropOut {
    type State = (DropoutMask<B>, f64);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (mask, prob) = ops.state;
        if let [Some(parent)] = ops.parents {
            grads.register::<B>(parent.id, B::drop_out_backward(grad, mask, prob));
        }
    }
}

/// [`StepOps::recast`].
#[derive(Debug)]
struct Recast;

impl<B: StepOps> Backward<B, 1> for Recast {
    /// Type of the input, and the factor.
    type State = (FloatDType, f64);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (dtype, factor) = ops.state;
        if let [Some(parent)] = ops.parents {
            let grad = B::float_cast(grad, dtype);
            let grad = match factor == 1.0 {
                true => grad,
                false => B::scaled(grad, factor),
            };
            grads.register::<B>(parent.id, grad);
        }
    }
}

impl<B: StepOps, C: CheckpointStrategy> StepOps for Autodiff<B, C> {
    fn recast(tensor: FloatTensor<Self>, dtype: FloatDType, factor: f64) -> FloatTensor<Self> {
        let from = tensor.dtype().into();
        let prepared = Recast
            .prepare::<C>([tensor.node()])
            .compute_bound()
            .stateful();
        let out = B::float_cast(tensor.into_primitive(), dtype);
        match prepared {
            OpsKind::Tracked(prep) => prep.finish((from, factor), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn first_features(tensor: FloatTensor<Self>, count: usize) -> FloatTensor<Self> {
        let size = tensor.shape()[2];
        let prepared = FirstFeatures
            .prepare::<C>([tensor.node()])
            .compute_bound()
            .stateful();
        let out = B::first_features_forward(tensor.into_primitive(), count);
        match prepared {
            OpsKind::Tracked(prep) => prep.finish(size, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn embed(weight: FloatTensor<Self>, tokens: IntTensor<Self>) -> FloatTensor<Self> {
        let prepared = Embed
            .prepare::<C>([weight.node()])
            .compute_bound()
            .stateful();
        let out = B::embed_forward(weight.primitive().clone(), tokens.clone());
        match prepared {
            OpsKind::Tracked(prep) => prep.finish((weight, tokens), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn drop_out(tensor: FloatTensor<Self>, prob: f64) -> FloatTensor<Self> {
        let prepared = DropOut
            .prepare::<C>([tensor.node()])
            .compute_bound()
            .stateful();
        let (out, mask) = B::drop_out_forward(tensor.into_primitive(), prob);
        match prepared {
            OpsKind::Tracked(prep) => prep.finish((mask, prob), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn sum_of_squares(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        Tracked::<B>::new(B::sum_of_squares(tensor.into_primitive()))
    }

    fn scaled(tensor: FloatTensor<Self>, factor: f64) -> FloatTensor<Self> {
        Tracked::<B>::new(B::scaled(tensor.into_primitive(), factor))
    }

    fn descend(
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        rate: f64,
        decay: f64,
    ) -> FloatTensor<Self> {
        let (weight, grad) = (weight.into_primitive(), grad.into_primitive());
        Tracked::<B>::new(B::descend(weight, grad, rate, decay))
    }
}

//! The host's part in a window, whatever the cell: buffers, and a launch per step or one for all.

use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::arguments::{Steps, StepsBack};
use super::backward::{BackwardLaunch, scan_back, step_back, window_back};
use super::forward::{ForwardLaunch, scan, step, window};
use super::launch::{Place, product, writable};
use super::unit::Options;
use super::window::{Extent, entering_state, leaving_grad, step_of, transposed};
use crate::ops::cell::Cell;
use crate::ops::types::Optional;

/// The tensor, contiguous; one that is never read where it is absent: a kernel has a fixed number of buffers.
fn or_nothing(tensor: Optional<CubeBackend>, nothing: &CubeTensor) -> CubeTensor {
    into_contiguous(tensor.into_option().unwrap_or_else(|| nothing.clone()))
}

/// The buffers of a pass, contiguous, and how a kernel gets them.
macro_rules! buffers {
    ($name:ident as $launch:ident { $($buffer:ident),+ $(,)? }) => {
        struct $name {
            $($buffer: CubeTensor,)+
        }

        impl $name {
            fn launch<F: Float>(&self) -> $launch<F> {
                $launch {
                    $($buffer: self.$buffer.clone().into_buffer_arg(),)+
                }
            }
        }
    };
}

buffers!(Forward as ForwardLaunch {
    inputs, bias, recurrent_bias, gates, states, taps, reset_mask,
});
buffers!(Backward as BackwardLaunch {
    grad, gates, states, state, taps, reset_mask, d_input, d_product, d_taps,
});

/// [`CubeOps::steps`](super::CubeOps::steps).
pub(super) fn forward(cell: Cell, args: Steps<CubeBackend>) -> (CubeTensor, CubeTensor) {
    let place = Place::of(&args.inputs);
    let extent = Extent::of(&args.inputs, cell.gates());
    let Extent {
        time,
        batch,
        hidden,
    } = extent;
    let options = Options {
        cell,
        taps: args.taps.is_given(),
        resets: args.reset_mask.is_given(),
        tap_grads: false,
    };
    let nothing = place.empty(&[1]);
    let per_step = |parts: usize| place.empty(&[time, batch, parts * hidden]);
    // Gates or states take the place of the input products where they are as many.
    let (inputs, gates, states) = match cell.saved_gates() {
        0 => (nothing.clone(), nothing.clone(), writable(args.inputs)),
        saved if saved == cell.gates() => {
            let states = per_step(cell.state_parts());
            (nothing.clone(), writable(args.inputs), states)
        }
        saved => {
            let states = per_step(cell.state_parts());
            (into_contiguous(args.inputs), per_step(saved), states)
        }
    };
    let buffers = Forward {
        inputs,
        bias: into_contiguous(args.bias),
        recurrent_bias: or_nothing(args.recurrent_bias, &nothing),
        gates,
        states,
        taps: or_nothing(args.taps, &nothing),
        reset_mask: or_nothing(args.reset_mask, &nothing),
    };
    let state = into_contiguous(args.state);
    let Some(weight) = args.recurrent_weight.into_option() else {
        let (count, dim) = place.elementwise(extent.units());
        // SAFETY: the buffers have the lengths that the extent gives, and every index stays below them.
        unsafe {
            scan::launch_unchecked(
                &place.client,
                count,
                dim,
                buffers.launch::<scan::F>(),
                state.into_buffer_arg(),
                time,
                batch,
                hidden,
                options,
                place.elem(),
            );
        }
        return (buffers.states, buffers.gates);
    };
    if let Some(grid) = extent.one_launch(&place, cell.recurrent_gates()) {
        // SAFETY: the buffers have the lengths that the extent gives, and every index stays below them.
        unsafe {
            window::launch_unchecked(
                &place.client,
                grid.count,
                grid.dim,
                buffers.launch::<window::F>(),
                into_contiguous(weight).into_buffer_arg(),
                state.into_buffer_arg(),
                time,
                batch,
                hidden,
                grid.units,
                options,
                place.elem(),
            );
        }
        return (buffers.states, buffers.gates);
    }
    let (h_in, c_in) = entering_state(&place, extent, &state, &buffers.reset_mask, options);
    let out = place.empty(&[batch, cell.recurrent_gates() * hidden]);
    for t in 0..time {
        let product = product(h_in.clone(), weight.clone(), &out);
        let (count, dim) = place.elementwise(extent.units());
        // SAFETY: as above.
        unsafe {
            step::launch_unchecked(
                &place.client,
                count,
                dim,
                buffers.launch::<step::F>(),
                product.into_buffer_arg(),
                h_in.clone().into_buffer_arg(),
                c_in.clone().into_buffer_arg(),
                t,
                time,
                batch,
                hidden,
                options,
                place.elem(),
            );
        }
    }
    (buffers.states, buffers.gates)
}

/// [`CubeOps::steps_back`](super::CubeOps::steps_back).
pub(super) fn backward(
    cell: Cell,
    args: StepsBack<CubeBackend>,
    tap_grads: bool,
) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
    let place = Place::of(&args.grad);
    let extent = Extent::of(&args.grad, cell.state_parts());
    let Extent {
        time,
        batch,
        hidden,
    } = extent;
    let options = Options {
        cell,
        taps: args.taps.is_given(),
        resets: args.reset_mask.is_given(),
        tap_grads,
    };
    let nothing = place.empty(&[1]);
    let per_step = |parts: usize, wanted: bool| match wanted {
        true => place.empty(&[time, batch, parts * hidden]),
        false => place.empty(&[1]),
    };
    let buffers = Backward {
        grad: into_contiguous(args.grad),
        gates: into_contiguous(args.gates),
        states: into_contiguous(args.states),
        state: into_contiguous(args.state),
        taps: or_nothing(args.taps, &nothing),
        reset_mask: or_nothing(args.reset_mask, &nothing),
        d_input: per_step(cell.gates(), true),
        d_product: per_step(cell.recurrent_gates(), cell.has_recurrent_bias()),
        d_taps: per_step(cell.state_parts(), tap_grads),
    };
    let Some(weight) = args.recurrent_weight.into_option() else {
        let d_state = place.empty(&[batch, hidden]);
        let (count, dim) = place.elementwise(extent.units());
        // SAFETY: the buffers have the lengths that the extent gives, and every index stays below them.
        unsafe {
            scan_back::launch_unchecked(
                &place.client,
                count,
                dim,
                buffers.launch::<scan_back::F>(),
                d_state.clone().into_buffer_arg(),
                time,
                batch,
                hidden,
                options,
                place.elem(),
            );
        }
        return (buffers.d_input, buffers.d_product, d_state, buffers.d_taps);
    };
    let d_state = if let Some(grid) = extent.one_launch(&place, cell.recurrent_gates()) {
        let d_state = place.empty(&[batch, cell.state_parts() * hidden]);
        // SAFETY: the buffers have the lengths that the extent gives, and every index stays below them.
        unsafe {
            window_back::launch_unchecked(
                &place.client,
                grid.count,
                grid.dim,
                buffers.launch::<window_back::F>(),
                into_contiguous(transposed(weight)).into_buffer_arg(),
                d_state.clone().into_buffer_arg(),
                time,
                batch,
                hidden,
                grid.units,
                options,
                place.elem(),
            );
        }
        d_state
    } else {
        let transposed = transposed(into_contiguous(weight));
        let carried = place.empty_as(&[batch, hidden], DType::F32);
        let out = place.empty(&[batch, hidden]);
        let mut back = out.clone();
        for t in (0..time).rev() {
            let (count, dim) = place.elementwise(extent.units());
            // SAFETY: as above.
            unsafe {
                step_back::launch_unchecked(
                    &place.client,
                    count,
                    dim,
                    buffers.launch::<step_back::F>(),
                    back.into_buffer_arg(),
                    carried.clone().into_buffer_arg(),
                    t,
                    time,
                    batch,
                    hidden,
                    options,
                    place.elem(),
                );
            }
            let grad = match cell.has_recurrent_bias() {
                true => &buffers.d_product,
                false => &buffers.d_input,
            };
            back = product(step_of(grad, t), transposed.clone(), &out);
        }
        leaving_grad(&place, extent, back, carried, &buffers.reset_mask, options)
    };
    (buffers.d_input, buffers.d_product, d_state, buffers.d_taps)
}

//! The host's part in a window, whatever the cell: buffers, and launches per step or one for all.

use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::arguments::{Steps, StepsBack};
use super::backward::{BackwardLaunch, scan_back, step_back, window_back};
use super::forward::{ForwardLaunch, scan, step, window};
use super::fused::FusedWindow;
use super::launch::{Argument, Place, product, writable};
use super::time_loop::Way;
use super::tuning::Direction;
use super::unit::Options;
use super::window::{Extent, entering_state, leaving_grad, step_of, transposed};
use crate::ops::cell::Cell;
use crate::ops::types::Optional;

/// The tensor, contiguous.
fn given(tensor: Optional<CubeBackend>) -> Option<CubeTensor> {
    tensor.into_option().map(into_contiguous)
}

/// The buffers of a pass, contiguous, and how a kernel gets them.
macro_rules! buffers {
    ($name:ident as $launch:ident { $($buffer:ident: $kind:ty),+ $(,)? }) => {
        struct $name {
            $($buffer: $kind,)+
        }

        impl $name {
            fn launch<F: Float>(&self) -> $launch<F> {
                $launch {
                    $($buffer: self.$buffer.argument(),)+
                }
            }
        }
    };
}

buffers!(Forward as ForwardLaunch {
    states: CubeTensor,
    inputs: Option<CubeTensor>,
    bias: CubeTensor,
    recurrent_bias: Option<CubeTensor>,
    gates: Option<CubeTensor>,
    taps: Option<CubeTensor>,
    reset_mask: Option<CubeTensor>,
});
buffers!(Backward as BackwardLaunch {
    grad: CubeTensor,
    gates: CubeTensor,
    states: CubeTensor,
    state: CubeTensor,
    taps: Option<CubeTensor>,
    reset_mask: Option<CubeTensor>,
    d_input: CubeTensor,
    d_product: Option<CubeTensor>,
    d_taps: Option<CubeTensor>,
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
    let per_step = |parts: usize| place.empty(&[time, batch, parts * hidden]);
    // Gates or states take the place of the input products where they are as many.
    let (inputs, gates, states) = match cell.saved_gates() {
        0 => (None, None, writable(args.inputs)),
        saved if saved == cell.gates() => {
            let states = per_step(cell.state_parts());
            (None, Some(writable(args.inputs)), states)
        }
        saved => {
            let states = per_step(cell.state_parts());
            let inputs = into_contiguous(args.inputs);
            (Some(inputs), Some(per_step(saved)), states)
        }
    };
    let buffers = Forward {
        inputs,
        bias: into_contiguous(args.bias),
        recurrent_bias: given(args.recurrent_bias),
        gates,
        states,
        taps: given(args.taps),
        reset_mask: given(args.reset_mask),
    };
    // One element where the cell saves none.
    let gates = buffers.gates.clone().unwrap_or_else(|| place.empty(&[1]));
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
                state.argument(),
                time,
                batch,
                hidden,
                options,
                place.elem(),
            );
        }
        return (buffers.states, gates);
    };
    let weight = into_contiguous(weight);
    match extent.way(&place, cell, Direction::Forward) {
        // SAFETY: the buffers have the lengths that the extent gives, and every index stays below them.
        Way::Window(grid) => unsafe {
            window::launch_unchecked(
                &place.client,
                grid.count,
                grid.dim,
                buffers.launch::<window::F>(),
                weight.argument(),
                state.argument(),
                time,
                batch,
                hidden,
                grid.units,
                options,
                place.elem(),
            );
        },
        Way::Fused(plan) => {
            let window = FusedWindow {
                place: &place,
                extent,
                plan,
                options,
                reset_mask: &buffers.reset_mask,
            };
            window.forward(|| buffers.launch(), weight, &state);
        }
        Way::Products => products(&place, extent, &buffers, &weight, &state, options),
    }
    (buffers.states, gates)
}

/// A product and a launch per step.
fn products(
    place: &Place,
    extent: Extent,
    buffers: &Forward,
    weight: &CubeTensor,
    state: &CubeTensor,
    options: Options,
) {
    let Extent {
        time,
        batch,
        hidden,
    } = extent;
    let (h_in, c_in) = entering_state(place, extent, state, &buffers.reset_mask, options);
    let out = place.empty(&[batch, options.cell.recurrent_gates() * hidden]);
    for t in 0..time {
        let product = product(h_in.clone(), weight.clone(), &out);
        let (count, dim) = place.elementwise(extent.units());
        // SAFETY: the buffers have the lengths that the extent gives, and every index stays below them.
        unsafe {
            step::launch_unchecked(
                &place.client,
                count,
                dim,
                buffers.launch::<step::F>(),
                product.argument(),
                h_in.argument(),
                c_in.argument(),
                t,
                time,
                batch,
                hidden,
                options,
                place.elem(),
            );
        }
    }
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
    let per_step = |parts: usize| place.empty(&[time, batch, parts * hidden]);
    let buffers = Backward {
        grad: into_contiguous(args.grad),
        gates: into_contiguous(args.gates),
        states: into_contiguous(args.states),
        state: into_contiguous(args.state),
        taps: given(args.taps),
        reset_mask: given(args.reset_mask),
        d_input: per_step(cell.gates()),
        d_product: cell
            .has_recurrent_bias()
            .then(|| per_step(cell.recurrent_gates())),
        d_taps: tap_grads.then(|| per_step(cell.state_parts())),
    };
    let d_state = match args.recurrent_weight.into_option() {
        None => {
            let d_state = place.empty(&[batch, hidden]);
            let (count, dim) = place.elementwise(extent.units());
            // SAFETY: the buffers have the lengths that the extent gives, and every index stays below them.
            unsafe {
                scan_back::launch_unchecked(
                    &place.client,
                    count,
                    dim,
                    buffers.launch::<scan_back::F>(),
                    d_state.argument(),
                    time,
                    batch,
                    hidden,
                    options,
                    place.elem(),
                );
            }
            d_state
        }
        Some(weight) => match extent.way(&place, cell, Direction::Back) {
            Way::Window(grid) => {
                let d_state = place.empty(&[batch, cell.state_parts() * hidden]);
                // SAFETY: as above.
                unsafe {
                    window_back::launch_unchecked(
                        &place.client,
                        grid.count,
                        grid.dim,
                        buffers.launch::<window_back::F>(),
                        into_contiguous(transposed(weight)).argument(),
                        d_state.argument(),
                        time,
                        batch,
                        hidden,
                        grid.units,
                        options,
                        place.elem(),
                    );
                }
                d_state
            }
            Way::Fused(plan) => {
                let window = FusedWindow {
                    place: &place,
                    extent,
                    plan,
                    options,
                    reset_mask: &buffers.reset_mask,
                };
                window.backward(|| buffers.launch(), into_contiguous(weight))
            }
            Way::Products => products_back(&place, extent, &buffers, weight, options),
        },
    };
    let one = |made: Option<CubeTensor>| made.unwrap_or_else(|| place.empty(&[1]));
    let (d_product, d_taps) = (one(buffers.d_product), one(buffers.d_taps));
    (buffers.d_input, d_product, d_state, d_taps)
}

/// A launch and a product per step: gradient of the initial state.
fn products_back(
    place: &Place,
    extent: Extent,
    buffers: &Backward,
    weight: CubeTensor,
    options: Options,
) -> CubeTensor {
    let Extent {
        time,
        batch,
        hidden,
    } = extent;
    let transposed = transposed(into_contiguous(weight));
    let carried = place.empty_as(&[batch, hidden], DType::F32);
    let out = place.empty(&[batch, hidden]);
    let mut back = out.clone();
    for t in (0..time).rev() {
        let (count, dim) = place.elementwise(extent.units());
        // SAFETY: the buffers have the lengths that the extent gives, and every index stays below them.
        unsafe {
            step_back::launch_unchecked(
                &place.client,
                count,
                dim,
                buffers.launch::<step_back::F>(),
                back.argument(),
                carried.argument(),
                t,
                time,
                batch,
                hidden,
                options,
                place.elem(),
            );
        }
        let grad = buffers.d_product.as_ref().unwrap_or(&buffers.d_input);
        back = product(step_of(grad, t), transposed.clone(), &out);
    }
    leaving_grad(place, extent, back, carried, &buffers.reset_mask, options)
}

//! Models and states that go elsewhere: to another backend, into a file, to PyTorch and Burn.

use super::*;

/// Models and states move between backends with their values.
pub(super) fn backends_exchange_models_and_states<L: RecurrentLayer>() {
    let all = all_devices();
    for (from_name, from) in &all {
        for (to_name, to) in &all {
            let what = format!("{from_name} to {to_name}");
            let stack = SMALL.stack::<L>(from, DType::F32);
            let x = SMALL.input(from, DType::F32);
            let (expected, state) = stack.forward(x.clone(), None).unwrap();
            let moved = state.clone().to_device(to);
            assert!(moved.parts().iter().all(|part| part.device() == *to));
            assert_eq!(state_values(&moved), state_values(&state), "{what}");
            let there = stack.clone().to_device(to);
            let (output, _) = there.forward(x.to_device(to), None).unwrap();
            assert_close(&what, &values(output), &values(expected), 1e-6);
        }
    }
}

/// Stacks with noise for weights, on every backend, with and without gradients, with and without biases: their settings and device,
/// whether they have biases, an input, and what they make of it.
fn with_each_stack<L: RecurrentLayer>(
    check: impl Fn(&str, (StackConfig<L>, &Device, bool), Stack<L>, Tensor<3>, Vec<f64>),
) {
    let tracked = all_devices()
        .into_iter()
        .map(|(name, d)| (name, d.autodiff()));
    for (backend, device) in all_devices().into_iter().chain(tracked) {
        for bias in [true, false] {
            let fresh = StackConfig::<L>::new(SMALL.input, SMALL.hidden)
                .with_layers(SMALL.layers)
                .with_bias(bias);
            let stack = with_noise(fresh.init(&device).unwrap(), 21, 0.5, DType::F32);
            let x = SMALL.input(&device, DType::F32);
            let (expected, _) = stack.forward(x.clone(), None).unwrap();
            check(backend, (fresh, &device, bias), stack, x, values(expected));
        }
    }
}

/// Out to PyTorch's layout and back, and through Burn's record: the same outputs, bit for bit.
pub(super) fn exports_keep_outputs<L: TorchCompatible>() {
    with_each_stack::<L>(|backend, (_, _, bias), stack, x, expected| {
        let layers: Vec<_> = stack.layers.iter().map(L::to_torch).collect();
        assert_eq!(layers.iter().all(|layer| layer.biases.is_some()), bias);
        let back = Stack::<L>::from_torch(layers, 0.0).unwrap();
        assert_eq!(weights(&back), weights(&stack), "{backend}");
        let (output, _) = back.forward(x, None).unwrap();
        assert_eq!(values(output), expected, "{backend}");
    });
}

/// A record in bytes is the model again.
pub(super) fn records_keep_outputs<L: RecurrentLayer>() {
    with_each_stack::<L>(|backend, (fresh, device, _), stack, x, expected| {
        let bytes = stack.into_record().into_bytes().unwrap();
        let loaded = fresh
            .init(device)
            .unwrap()
            .load_record(ModuleRecord::from_bytes(bytes).unwrap());
        let (output, _) = loaded.forward(x, None).unwrap();
        assert_eq!(values(output), expected, "{backend}");
    });
}

/// What was converted from tracked weights is a model of its own that can be trained.
pub(super) fn converted_models_can_be_trained<L: TorchCompatible>() {
    for (backend, device) in all_devices() {
        let device = device.autodiff();
        let stack = SMALL.stack::<L>(&device, DType::F32);
        let layers: Vec<_> = stack.layers.iter().map(L::to_torch).collect();
        let back = Stack::<L>::from_torch(layers, 0.0).unwrap();
        let x = SMALL.input(&device, DType::F32);
        let loss = |stack: &Stack<L>| stack.forward(x.clone(), None).unwrap().0.sum();
        let expected = weight_gradients(&stack, &loss(&stack).backward());
        let grads = loss(&back).backward();
        assert_close(backend, &weight_gradients(&back, &grads), &expected, 1e-6);
        let original = weight_gradients(&stack, &grads);
        assert!(
            original.iter().all(|g| *g == 0.0),
            "{backend}: no shared graph"
        );
    }
}

/// Burn's `nn::Lstm` from tracked weights and back: leaves of their own, gates where they were.
#[test]
fn burns_lstm_made_from_tracked_weights_can_be_trained() {
    for (backend, device) in all_devices() {
        let device = device.autodiff();
        let sizes = Sizes { layers: 1, ..SMALL };
        let stack = sizes.stack::<LstmLayer>(&device, DType::F32);
        let burn = stack.layers[0].to_burn();
        let x = sizes.input(&device, DType::F32);
        let (expected, _) = stack.forward(x.clone(), None).unwrap();
        let (output, _) = burn.forward(x, None);
        assert_close(
            backend,
            &values(output.clone()),
            &values(expected.clone()),
            1e-6,
        );
        let layer = LstmLayer::from_burn(&burn).unwrap();
        assert_eq!(weights(&layer), weights(&stack), "{backend}");

        // The gradient at Burn's input gate is the first quarter of the columns of ours.
        let (ours, burns) = (expected.sum().backward(), output.sum().backward());
        let gate = burn.input_gate.input_transform.weight.val();
        let fused = stack.layers[0].input_weight.val().grad(&ours).unwrap();
        assert_close(
            backend,
            &values(gate.grad(&burns).unwrap()),
            &values(fused.narrow(1, 0, sizes.hidden)),
            1e-5,
        );
    }
}

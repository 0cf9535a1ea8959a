//! What does not fit is a typed error.

use super::*;

/// What does not fit is a typed error that names what was wrong.
pub(super) fn misfits_are_typed_errors<L: RecurrentLayer>() {
    let shape = |result: Result<(Tensor<3>, Vec<L::State>), ModelError>, expected: &str| {
        let Err(ModelError::Shape { what, .. }) = result else {
            panic!("{expected}: no shape error");
        };
        assert_eq!(what, expected);
    };
    for (_, device) in all_devices() {
        let stack = SMALL.stack::<L>(&device, DType::F32);
        let zeros = |dims: [usize; 3]| Tensor::<3>::zeros(dims, &device);
        let x = SMALL.input(&device, DType::F32);
        shape(stack.forward(zeros([3, 7, 9]), None), "input weight");
        let wrong_batch = stack.zero_state(4, &device);
        shape(stack.forward(x.clone(), Some(wrong_batch)), "state");
        let one_layer = stack.zero_state(3, &device)[..1].to_vec();
        shape(stack.forward(x.clone(), Some(one_layer)), "state");
        // Every part is checked, not only what the parts are together.
        let mut widths = [SMALL.hidden + 1, SMALL.hidden - 1].into_iter().cycle();
        let uneven = stack.zero_state(3, &device).map_parts(&mut |part| {
            Tensor::zeros([part.dims()[0], widths.next().unwrap()], &device)
        });
        shape(stack.forward(x.clone(), Some(uneven)), "state");
        let mut batch = SMALL.batch;
        let ragged = stack.zero_state(3, &device).map_parts(&mut |part| {
            batch += 1;
            Tensor::zeros([batch, part.dims()[1]], &device)
        });
        shape(stack.forward(x.clone(), Some(ragged)), "state");

        for (dims, missing) in [([3, 0, 4], "time steps"), ([0, 7, 4], "sequences")] {
            let expected = ModelError::Empty {
                what: "input",
                missing,
            };
            assert_eq!(stack.forward(zeros(dims), None).unwrap_err(), expected);
        }

        let time_major = x.swap_dims(0, 1);
        let unroll = |options| stack.unroll(time_major.clone(), None, options).unwrap_err();
        let reset = UnrollOptions {
            taps: None,
            reset: Some(mask(&[], 7, 3, &device)),
        };
        let error = unroll(reset);
        assert!(matches!(
            &error,
            ModelError::Shape {
                what: "reset mask",
                ..
            }
        ));
        let size = L::PARTS * SMALL.hidden;
        for (layers, steps) in [(1, 7), (2, 6)] {
            let taps = vec![zeros([steps, 3, size]); layers];
            let options = UnrollOptions {
                taps: Some(taps),
                reset: None,
            };
            assert!(matches!(
                unroll(options),
                ModelError::Shape { what: "taps", .. }
            ));
        }
    }
}

/// Input, state or reset mask on another device than the model: an error that names it and both devices.
pub(super) fn tensors_of_another_device_are_typed_errors<L: RecurrentLayer>() {
    let all = all_devices();
    for (name, device) in &all {
        for (other_name, other) in all.iter().filter(|(other, _)| other != name) {
            let stack = SMALL.stack::<L>(device, DType::F32);
            let x = SMALL.input(device, DType::F32);
            let state = stack.zero_state(SMALL.batch, other);
            let options = UnrollOptions {
                taps: None,
                reset: Some(mask(&[(1, 3)], SMALL.batch, SMALL.steps, other)),
            };
            let elsewhere = [
                (
                    "input",
                    stack.forward(x.clone().to_device(other), None).err(),
                ),
                ("state", stack.forward(x.clone(), Some(state)).err()),
                (
                    "reset mask",
                    stack.unroll(x.swap_dims(0, 1), None, options).err(),
                ),
            ];
            for (tensor, error) in elsewhere {
                let error = error.unwrap_or_else(|| panic!("{tensor} on {other_name}: no error"));
                assert!(
                    matches!(&error, ModelError::Device { what, .. } if *what == tensor),
                    "{tensor} on {other_name}, model on {name}: {error}"
                );
                assert!(error.to_string().contains("to_device"), "{error}");
            }
        }
    }
}

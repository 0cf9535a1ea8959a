//! What a language model refuses.

use super::*;

#[test]
fn a_plan_outside_the_window_is_refused() {
    let device = Device::flex().autodiff();
    let model = model::<LstmLayer>(None, &device, DType::F32);
    let plain = Plain {
        model: model.clone(),
    };
    let window = batch(5, &device);
    // (warm_up, loss_from, carry, why)
    for (warm_up, loss_from, carry, why) in [
        (0, 5, 5, "no step carries a loss"),
        (3, 2, 5, "a loss before backpropagation begins"),
        (0, 0, 6, "a state after the window"),
        (usize::MAX, 0, 0, "numbers far outside"),
        (0, usize::MAX, 0, "numbers far outside"),
        (0, 0, usize::MAX, "numbers far outside"),
    ] {
        let plan = WindowPlan {
            warm_up,
            loss_from,
            carry,
        };
        for error in [
            model.window(&window, None, plan).unwrap_err(),
            plain.window(&window, None, plan).unwrap_err(),
        ] {
            assert!(
                matches!(error, ModelError::Config { field: "plan", .. }),
                "{why}: {error}"
            );
        }
    }
}

#[test]
fn a_lag_profile_needs_a_device_with_autodiff() {
    for (_, device) in all_devices() {
        let model = model::<LstmLayer>(None, &device, DType::F32);
        let plain = Plain {
            model: model.clone(),
        };
        let window = batch(4, &device);
        for error in [
            model.state_gradients(&window, None).unwrap_err(),
            plain.state_gradients(&window, None).unwrap_err(),
        ] {
            assert!(matches!(error, ModelError::NoAutodiff { .. }), "{error}");
        }
    }
}

#[test]
fn states_of_another_model_or_batch_are_refused() {
    for (_, device) in all_devices() {
        let device = device.autodiff();
        let model = model::<LstmLayer>(None, &device, DType::F32);
        let window = batch(4, &device);
        let mut wrong = vec![model.layers.zero_state(BATCH + 1, &device)];
        wrong.push(model.layers.zero_state(BATCH, &device)[..1].to_vec());
        for state in wrong {
            let is_shape = |error: ModelError| {
                assert!(
                    matches!(error, ModelError::Shape { what: "state", .. }),
                    "{error}"
                );
            };
            is_shape(model.forward(&window, Some(state.clone())).unwrap_err());
            is_shape(model.state_gradients(&window, Some(state)).unwrap_err());
        }
        let (features, _) = model.forward(&window, None).unwrap();
        let shorter = window.slice(0..3);
        let error = model.loss(features, &shorter).unwrap_err();
        assert!(
            matches!(
                error,
                ModelError::Shape {
                    what: "features",
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn token_batches_refuse_what_does_not_fit() {
    let device = Device::flex();
    let model = model::<LstmLayer>(None, &device, DType::F32);
    for bad in [VOCABULARY as i64, -1] {
        let outside = ModelError::Token {
            token: bad,
            vocabulary: VOCABULARY,
        };
        let inputs = TokenBatch::from_host(&[1, bad], &[1, 2], 1, 2, &device).unwrap();
        assert_eq!(model.forward(&inputs, None).unwrap_err(), outside);
        let targets = TokenBatch::from_host(&[1, 2], &[bad, 2], 1, 2, &device).unwrap();
        let features = Tensor::zeros([1, 2, HIDDEN], &device);
        assert_eq!(model.loss(features, &targets).unwrap_err(), outside);
    }
    let far = i64::from(i32::MAX) + 1;
    let result = TokenBatch::from_host(&[far], &[0], 1, 1, &device);
    assert!(matches!(result.unwrap_err(), ModelError::Token { token, .. } if token == far));
    for (inputs, batch, time) in [(3, 2, 2), (4, 1, 2)] {
        let result = TokenBatch::from_host(&vec![0; inputs], &[0; 4], batch, time, &device);
        assert!(matches!(result.unwrap_err(), ModelError::Shape { .. }));
    }
    for (batch, time) in [(0, 2), (2, 0)] {
        let result = TokenBatch::from_host(&[], &[], batch, time, &device);
        assert!(matches!(result.unwrap_err(), ModelError::Empty { .. }));
    }
    let marks = Tensor::<2, Bool>::from_data([[true, false, true]], &device);
    let result = TokenBatch::from_host(&[1, 2], &[2, 3], 1, 2, &device)
        .unwrap()
        .with_reset(marks);
    assert!(matches!(
        result.unwrap_err(),
        ModelError::Shape {
            what: "reset mask",
            ..
        }
    ));
}

#[test]
fn configurations_outside_their_range_are_refused() {
    let device = Device::flex();
    let field = |config: LanguageModelConfig| match config.init::<GruLayer>(&device) {
        Err(ModelError::Config { field, .. }) => field,
        other => panic!("{config:?} gave {:?}", other.map(|_| ())),
    };
    assert_eq!(field(config().with_layers(0)), "layers");
    assert_eq!(
        field(config().with_hidden(0).with_embedding(3).with_tied(false)),
        "d_hidden"
    );
    assert_eq!(field(config().with_hidden(0)), "embedding");
    assert_eq!(field(LanguageModelConfig::new(0)), "vocabulary");
    assert_eq!(field(config().with_embedding(HIDDEN + 1)), "embedding");
    for dropout in [1.0, -0.1, f64::NAN, f64::INFINITY] {
        assert_eq!(field(config().with_dropout(dropout)), "dropout");
    }
}

/// Tokens on another device than the model: an error, and no end of the program, before anything runs.
#[test]
fn tokens_of_another_device_are_refused() {
    let all = all_devices();
    for (name, device) in &all {
        for (other_name, other) in all.iter().filter(|(other, _)| other != name) {
            let model = model::<LstmLayer>(None, device, DType::F32);
            let error = model.forward(&batch(4, other), None).unwrap_err();
            assert!(
                matches!(&error, ModelError::Device { what: "tokens", .. }),
                "{name}, {other_name}: {error}"
            );
            let (features, _) = model.forward(&batch(4, device), None).unwrap();
            let error = model.loss(features, &batch(4, other)).unwrap_err();
            assert!(
                matches!(
                    &error,
                    ModelError::Device {
                        what: "targets",
                        ..
                    }
                ),
                "{name}, {other_name}: {error}"
            );
        }
    }
}

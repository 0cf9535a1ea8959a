//! Tensors and settings that do not fit: each class has its error, and whole configurations are accepted or refused, never a
//! panic of a backend's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.
#![allow(deprecated)] // Burn deprecates NdArray, which stays supported here.
#![cfg_attr(not(feature = "ndarray"), allow(unused))] // Another device takes another backend.

use atbptt_models::interop::{TorchCompatible, TorchLayer};
use atbptt_models::ops::{self, Cell, SequenceOptions, Weights};
use atbptt_models::{
    GruLayer, LanguageModelConfig, LstmLayer, LstmState, ModelError, PackedState, Precision,
    RecurrentLayer, RecurrentModel, RnnLayer, SequenceBatch, StackConfig, TokenBatch,
    UnrollOptions, WeightInit, WindowPlan,
};
use burn::nn::{DropoutConfig, Initializer};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use proptest::prelude::*;

fn here() -> Device {
    Device::flex()
}

#[cfg(feature = "ndarray")]
fn elsewhere() -> Device {
    Device::ndarray()
}

/// The tensor that an error about devices or types is about.
fn blamed<T>(found: Result<T, ModelError>) -> (&'static str, &'static str) {
    match found {
        Err(ModelError::Device { what, .. }) => ("device", what),
        Err(ModelError::DType { what, .. }) => ("type", what),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
}

fn lstm_weights(device: &Device) -> Weights {
    Weights {
        input: Tensor::zeros([3, 8], device),
        recurrent: Some(Tensor::zeros([2, 8], device)),
        bias: Some(Tensor::zeros([8], device)),
        recurrent_bias: None,
    }
}

/// Each tensor of a sequence operation in turn on another device, and of another type.
#[test]
#[cfg(feature = "ndarray")]
fn tensors_on_another_device_or_of_another_type_are_named() {
    let run = |change: &dyn Fn(&mut Weights, &mut Tensor<2>, &mut SequenceOptions)| {
        let input = Tensor::zeros([5, 4, 3], &here());
        let mut weights = lstm_weights(&here());
        let mut state = Tensor::zeros([4, 4], &here());
        let mut options = SequenceOptions::default();
        change(&mut weights, &mut state, &mut options);
        ops::sequence(Cell::Lstm, input, weights, state, options)
    };
    assert!(run(&|_, _, _| {}).is_ok());
    let there = elsewhere();
    for (kind, at) in [
        ("device", (&there, DType::F32)),
        ("type", (&here(), DType::F64)),
    ] {
        let zeros = |shape: [usize; 3]| Tensor::<3>::zeros(shape, at);
        assert_eq!(
            blamed(run(&|w, _, _| w.input = Tensor::zeros([3, 8], at))),
            (kind, "input weight")
        );
        assert_eq!(
            blamed(run(&|w, _, _| w.recurrent = Some(Tensor::zeros([2, 8], at)))),
            (kind, "recurrent weight")
        );
        assert_eq!(
            blamed(run(&|w, _, _| w.bias = Some(Tensor::zeros([8], at)))),
            (kind, "bias")
        );
        assert_eq!(
            blamed(run(&|_, state, _| *state = Tensor::zeros([4, 4], at))),
            (kind, "state")
        );
        assert_eq!(
            blamed(run(&|_, _, o| o.taps = Some(zeros([5, 4, 4])))),
            (kind, "taps")
        );
        assert_eq!(
            blamed(run(&|_, _, o| o.reset_mask = Some(zeros([5, 4, 1])))),
            (kind, "reset mask")
        );
    }
}

/// A weight that the cell does not have, and one that it lacks, are named.
#[test]
fn weights_that_a_cell_has_no_use_for_or_lacks_are_refused() {
    let run = |weights: Weights| {
        let (input, state) = (
            Tensor::zeros([5, 4, 3], &here()),
            Tensor::zeros([4, 4], &here()),
        );
        let options = SequenceOptions::default();
        match ops::sequence(Cell::Lstm, input, weights, state, options) {
            Err(ModelError::Shape { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    };
    let recurrent_bias = Some(Tensor::zeros([2], &here()));
    let whole = lstm_weights(&here());
    assert_eq!(
        run(Weights {
            recurrent_bias,
            ..whole.clone()
        }),
        "recurrent bias"
    );
    assert_eq!(
        run(Weights {
            recurrent: None,
            ..whole
        }),
        "recurrent weight"
    );
}

/// With and without autodiff a device is the same, and its tensors meet.
#[test]
fn tracked_and_untracked_tensors_meet() {
    let tracked = here().autodiff();
    for (input, weights) in [(here(), tracked.clone()), (tracked.clone(), here())] {
        let input = Tensor::zeros([5, 4, 3], &input);
        let state = Tensor::zeros([4, 4], &tracked);
        let out = ops::sequence(
            Cell::Lstm,
            input,
            lstm_weights(&weights),
            state,
            SequenceOptions::default(),
        );
        assert_eq!(out.unwrap().dims(), [5, 4, 4]);
    }
    let hidden = Tensor::<2>::zeros([2, 3], &tracked);
    let targets = Tensor::<1, Int>::zeros([2], &here());
    let loss = ops::linear_nll(hidden, Tensor::zeros([4, 3], &here()), None, targets).unwrap();
    assert!((loss.into_scalar::<f32>() - 2.0 * 4f32.ln()).abs() < 1e-6);
}

#[test]
#[cfg(feature = "ndarray")]
fn classes_and_tokens_that_do_not_exist_are_refused_where_looking_costs_no_wait() {
    for device in [here(), elsewhere(), here().autodiff()] {
        for id in [4, -1, i64::from(i32::MAX)] {
            let ids = |n: usize| TensorData::new(vec![id; n], [n]);
            let targets = Tensor::<1, Int>::from_data(ids(2), (&device, DType::I64));
            let hidden = || Tensor::<2>::zeros([2, 3], &device);
            let weight = || Tensor::<2>::zeros([4, 3], &device);
            let token = ModelError::Token {
                token: id,
                vocabulary: 4,
            };
            let found = ops::linear_nll(hidden(), weight(), None, targets.clone());
            assert_eq!(found.unwrap_err(), token);
            let found = ops::linear_nll_rows(hidden(), weight(), None, targets.clone());
            assert_eq!(found.unwrap_err(), token);
            let found = ops::embedding(weight(), targets.reshape([1, 2]));
            assert_eq!(found.unwrap_err(), token);
        }
    }
    let tokens = Tensor::<2, Int>::zeros([1, 2], &elsewhere());
    let found = ops::embedding(Tensor::zeros([4, 3], &here()), tokens);
    assert_eq!(blamed(found), ("device", "tokens"));
    let none = ops::embedding(
        Tensor::zeros([4, 3], &here()),
        Tensor::<2, Int>::zeros([0, 2], &here()),
    );
    assert!(matches!(none, Err(ModelError::Empty { .. })));
}

#[test]
#[cfg(feature = "ndarray")]
fn optimiser_steps_and_dropout_take_only_what_fits() {
    let weight = || Tensor::<1>::ones([3], &here());
    let found = ops::sgd_step(weight(), Tensor::ones([3], &elsewhere()), 0.1, 0.0);
    assert_eq!(blamed(found), ("device", "gradient"));
    let found = ops::sgd_step(weight(), Tensor::ones([3], (&here(), DType::F64)), 0.1, 0.0);
    assert_eq!(blamed(found), ("type", "gradient"));
    // The field is open, so its range is checked again where it is used.
    for prob in [1.0, 2.0, -1.0, f64::NAN, f64::INFINITY] {
        let mut dropout = DropoutConfig::new(0.5).init();
        dropout.prob = prob;
        let kept = ops::dropout(&dropout, Tensor::<1>::ones([3], &here().autodiff()));
        assert_eq!(kept.into_data().iter::<f32>().collect::<Vec<_>>(), [1.0; 3]);
    }
}

#[test]
#[cfg(feature = "ndarray")]
fn batches_of_absurd_sizes_and_slices_outside_are_met() {
    let found = TokenBatch::from_host(&[1], &[1], usize::MAX, 2, &here());
    assert!(matches!(found, Err(ModelError::Shape { .. })));
    // 2^63 · 2 wraps to zero: the length of no ids at all.
    let found = TokenBatch::from_host(&[], &[], 1 << 63, 2, &here());
    assert!(matches!(found, Err(ModelError::Shape { .. })));
    let ids: Vec<i64> = (0..10).collect();
    let batch = TokenBatch::from_host(&ids, &ids, 2, 5, &here()).unwrap();
    assert!(batch.check(usize::MAX).is_ok() && batch.check(0).is_err());
    for (range, expected) in [
        (1..3, vec![1, 2, 6, 7]),
        (3..usize::MAX, vec![3, 4, 8, 9]),
        (7..9, vec![4, 9]),
        (2..2, vec![2, 7]),
    ] {
        let cut = batch.slice(range.clone());
        let found: Vec<i64> = cut.inputs().to_data().iter::<i64>().collect();
        assert_eq!(found, expected, "{range:?}");
    }
    let int = |device: &Device, dtype: DType| Tensor::<2, Int>::zeros([2, 5], (device, dtype));
    let found = TokenBatch::from_tensors(int(&here(), DType::I64), int(&elsewhere(), DType::I64));
    assert_eq!(blamed(found), ("device", "targets"));
    let found = TokenBatch::from_tensors(int(&here(), DType::I64), int(&here(), DType::I32));
    assert_eq!(blamed(found), ("type", "targets"));
    let reset = Tensor::<2, Int>::zeros([2, 5], &elsewhere()).equal_elem(1);
    assert_eq!(blamed(batch.with_reset(reset)), ("device", "reset mask"));
}

#[test]
#[cfg(feature = "ndarray")]
fn states_that_belong_to_another_model_are_refused() {
    let lstm = StackConfig::<LstmLayer>::new(3, 2).init(&here()).unwrap();
    let input = || Tensor::<3>::zeros([4, 5, 3], &here());
    let state = |hidden: Tensor<2>, cell: Tensor<2>| Some(vec![LstmState { hidden, cell }]);
    let fits = || Tensor::<2>::zeros([4, 2], &here());
    assert!(lstm.forward(input(), state(fits(), fits())).is_ok());
    let double = Tensor::zeros([4, 2], (&here(), DType::F64));
    assert_eq!(
        blamed(lstm.forward(input(), state(fits(), double.clone()))),
        ("type", "state")
    );
    let there = Tensor::zeros([4, 2], &elsewhere());
    assert_eq!(
        blamed(lstm.forward(input(), state(there.clone(), fits()))),
        ("device", "state")
    );
    let wide = Tensor::zeros([4, 3], &here());
    let found = lstm.forward(input(), state(fits(), wide.clone()));
    assert!(matches!(
        found,
        Err(ModelError::Shape { what: "state", .. })
    ));
    for (cell, expected) in [
        (double, ("type", "cell state")),
        (there, ("device", "cell state")),
    ] {
        let packed = PackedState::pack(LstmState {
            hidden: fits(),
            cell,
        });
        assert_eq!(blamed(packed), expected);
    }
    let packed = PackedState::pack(LstmState {
        hidden: fits(),
        cell: wide,
    });
    assert!(matches!(packed, Err(ModelError::Shape { .. })));
    let reset = Tensor::<2, Int>::zeros([5, 4], &elsewhere()).equal_elem(1);
    let options = UnrollOptions {
        taps: None,
        reset: Some(reset),
    };
    let found = lstm.unroll(Tensor::zeros([4, 5, 3], &here()), None, options);
    assert_eq!(blamed(found), ("device", "reset mask"));
}

/// The fields of a stack are open.
#[test]
fn a_stack_without_layers_answers() {
    let mut lstm = StackConfig::<LstmLayer>::new(3, 2).init(&here()).unwrap();
    lstm.layers.clear();
    let (out, state) = lstm.step(Tensor::ones([4, 3], &here()), None).unwrap();
    assert_eq!((out.dims(), state.len()), ([4, 3], 0));
    for shape in [[0, 3], [4, 0]] {
        let found = lstm.step(Tensor::zeros(shape, &here()), None);
        assert!(matches!(found, Err(ModelError::Empty { .. })));
    }
}

#[test]
#[cfg(feature = "ndarray")]
fn imported_weights_that_do_not_belong_together_are_refused() {
    let layer = |device: &Device, biases| TorchLayer {
        weight_ih: Tensor::zeros([8, 3], device),
        weight_hh: Tensor::zeros([8, 2], &here()),
        biases,
    };
    let bias = |device: &Device| Tensor::<1>::zeros([8], device);
    assert_eq!(
        blamed(LstmLayer::from_torch(layer(&elsewhere(), None))),
        ("device", "weight_ih")
    );
    let biases = Some((bias(&here()), bias(&elsewhere())));
    assert_eq!(
        blamed(LstmLayer::from_torch(layer(&here(), biases))),
        ("device", "bias_hh")
    );
    let empty = TorchLayer {
        weight_ih: Tensor::zeros([0, 3], &here()),
        weight_hh: Tensor::zeros([0, 0], &here()),
        biases: None,
    };
    assert!(matches!(
        GruLayer::from_torch(empty),
        Err(ModelError::Empty { .. })
    ));
}

/// Frozen weights, or a device without autodiff: Burn's `backward` panics on a loss of these.
#[test]
fn a_loss_that_nothing_tracked_went_into_is_told_from_one_that_can_be_trained() {
    let ids: Vec<i64> = (0..10).collect();
    let loss = |device: &Device, frozen: bool| {
        let model = LanguageModelConfig::new(10).with_hidden(2);
        let model = model.init::<LstmLayer>(device).unwrap();
        let model = match frozen {
            true => burn::module::Module::no_grad(model),
            false => model,
        };
        let batch = TokenBatch::from_host(&ids, &ids, 2, 5, device).unwrap();
        let plan = WindowPlan {
            warm_up: 0,
            loss_from: 0,
            carry: 5,
        };
        let loss = model.window(&batch, None, plan).unwrap().loss;
        loss.check_tracked("training")
    };
    let refused = Err(ModelError::Untracked { what: "training" });
    assert_eq!(loss(&here().autodiff(), false), Ok(()));
    assert_eq!(loss(&here().autodiff(), true), refused);
    assert_eq!(loss(&here(), false), refused);
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        3 => 0.0f64..1.0,
        1 => any::<f64>(),
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => Just(0.0),
    ]
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => 1usize..5,
        1 => Just(0),
        1 => Just(usize::MAX),
        1 => Just(1 << 62),
        1 => Just(usize::MAX / 4),
    ]
}

fn weights() -> impl Strategy<Value = WeightInit> {
    let burn = (0..8, number(), number()).prop_map(|(kind, a, b)| match kind {
        0 => Initializer::Constant { value: a },
        1 => Initializer::Uniform { min: a, max: b },
        2 => Initializer::Normal { mean: a, std: b },
        3 => Initializer::KaimingUniform {
            gain: a,
            fan_out_only: false,
        },
        4 => Initializer::KaimingNormal {
            gain: a,
            fan_out_only: true,
        },
        5 => Initializer::XavierUniform { gain: a },
        6 => Initializer::XavierNormal { gain: b },
        _ => Initializer::Orthogonal { gain: a },
    });
    prop_oneof![
        Just(WeightInit::LargerDimension),
        Just(WeightInit::InverseSqrtHidden),
        burn.prop_map(WeightInit::Burn)
    ]
}

/// What is accepted has weights, and runs.
fn runs<L: RecurrentLayer>(config: StackConfig<L>, d_input: usize) {
    match config.init(&here()) {
        Ok(stack) => {
            let input = Tensor::<3>::ones([2, 3, d_input], &here());
            let (out, _) = stack.forward(input, None).unwrap();
            assert_eq!(out.dims()[..2], [2, 3]);
        }
        Err(error) => assert!(matches!(error, ModelError::Config { .. }), "{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn prop_any_configuration_of_layers_works_or_is_refused(
        (d_input, d_hidden, layers) in (size(), size(), size()),
        (dropout, forget) in (number(), number()),
        weights in weights(),
        bias in any::<bool>(),
    ) {
        macro_rules! configured {
            ($config:ty) => {
                <$config>::new(d_input, d_hidden)
                    .with_layers(layers)
                    .with_dropout(dropout)
                    .with_forget_bias(forget)
                    .with_bias(bias)
                    .with_weights(weights.clone())
            };
        }
        runs(configured!(StackConfig<LstmLayer>), d_input);
        runs(configured!(StackConfig<GruLayer>), d_input);
        runs(configured!(StackConfig<RnnLayer>), d_input);
    }

    #[test]
    fn prop_any_configuration_of_a_language_model_works_or_is_refused(
        (vocabulary, hidden, layers) in (size(), size(), size()),
        embedding in prop::option::of(size()),
        (dropout, weights, tied) in (number(), weights(), any::<bool>()),
        // Flex has no half types: refused.
        precision in prop::sample::select(vec![Precision::F32, Precision::F32, Precision::F16, Precision::Bf16]),
    ) {
        let config = LanguageModelConfig { vocabulary, embedding, hidden, layers, dropout, tied, weights, precision };
        match config.init::<LstmLayer>(&here()) {
            Ok(model) => {
                let batch = TokenBatch::from_host(&[0; 6], &[0; 6], 2, 3, &here()).unwrap();
                let (features, _) = model.forward(&batch, None).unwrap();
                prop_assert_eq!(model.loss(features, &batch).unwrap().count, 6);
            }
            Err(error) => prop_assert!(matches!(error, ModelError::Config { .. }), "{}", error),
        }
    }

    /// Plans come from anywhere, windows from models of one's own.
    #[test]
    fn prop_any_plan_works_or_is_refused(
        (warm_up, loss_from, carry) in (0usize..8, 0usize..8, 0usize..8),
        factors in prop::collection::vec(number(), 0..8),
    ) {
        let ids: Vec<i64> = (0..10).collect();
        let model = LanguageModelConfig::new(10).with_hidden(2).with_dropout(0.0);
        let model = model.init::<LstmLayer>(&here()).unwrap();
        let batch = TokenBatch::from_host(&ids, &ids, 2, 5, &here()).unwrap();
        let plan = WindowPlan { warm_up, loss_from, carry };
        let fits = warm_up <= loss_from && loss_from < 5 && carry <= 5;
        prop_assert_eq!(model.window(&batch, None, plan).is_ok(), fits);
        prop_assert!(model.compensated_window(&batch, None, &factors).is_ok());
    }
}

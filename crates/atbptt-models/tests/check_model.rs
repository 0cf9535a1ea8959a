//! `check_model` passes sound models, and names the rule that a broken one breaks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use std::ops::Range;

use atbptt_models::{
    BrokenRule, DirectPlan, GruLayer, LanguageModelConfig, LstmLayer, MinGruLayer, ModelError,
    RecurrentLayer, RecurrentModel, RecurrentState, RnnLayer, SequenceBatch, SeriesBatch,
    SeriesModelConfig, SeriesShape, StepLoss, TokenBatch, WindowPlan, check_model, check_pieces,
    piece_gradients,
};
use burn::module::{Module, Param};
use burn::nn;
use burn::tensor::{Bool, Device, Tensor, TensorData, Tolerance};

const SEQUENCES: usize = 2;
const STEPS: usize = 6;

fn tokens(device: &Device) -> TokenBatch {
    let ids: Vec<i64> = (0..(SEQUENCES * STEPS) as i64).collect();
    TokenBatch::from_host(&ids, &ids, SEQUENCES, STEPS, device).unwrap()
}

/// What could not be checked.
fn language<L: RecurrentLayer>(dropout: f64) -> Vec<&'static str> {
    let device = Device::flex().autodiff();
    let config = LanguageModelConfig::new(SEQUENCES * STEPS)
        .with_hidden(5)
        .with_layers(2)
        .with_dropout(dropout);
    let model = config.init::<L>(&device).unwrap();
    let training = check_model(&model, &tokens(&device)).unwrap();
    let evaluation = check_model(&model.valid(), &tokens(&device.inner())).unwrap();
    assert_eq!(evaluation.len(), 1, "{evaluation:?}");
    training
}

#[test]
fn a_language_model_keeps_all_rules() {
    for unchecked in [language::<LstmLayer>(0.0), language::<GruLayer>(0.0)] {
        assert!(unchecked.is_empty(), "{unchecked:?}");
    }
}

/// Missing targets, and a learned start that a reset goes back to.
#[test]
fn a_series_model_keeps_all_rules() {
    let device = Device::flex().autodiff();
    let shape = SeriesShape {
        batch: 2,
        time: STEPS,
        inputs: 1,
        targets: 1,
    };
    let values: Vec<f32> = (0..2 * STEPS).map(|i| (i as f32).sin()).collect();
    let mut targets = values.clone();
    targets[3] = f32::NAN;
    let batch = SeriesBatch::from_host(values, targets, None, shape, &device).unwrap();
    for learned in [false, true] {
        let config = SeriesModelConfig::new(1, 1, 4).with_learned_start(learned);
        let model = config.init::<GruLayer>(&device).unwrap();
        let unchecked = check_model(&model, &batch).unwrap();
        assert!(
            unchecked.is_empty(),
            "learned start {learned}: {unchecked:?}"
        );
    }
}

/// Random draws stand in the way of comparing values in training; everything else is checked.
#[test]
fn dropout_leaves_what_it_disturbs_to_the_evaluation_mode() {
    let unchecked = language::<LstmLayer>(0.5);
    assert!(unchecked[0].contains("draws at random"), "{unchecked:?}");
}

/// What a test breaks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Faults {
    time_major: bool,
    ahead: bool,
    forgets: bool,
    mean: bool,
    count: bool,
    hidden_part: bool,
    unused: bool,
    ignores_resets: bool,
}

#[derive(Clone, Debug)]
struct Series {
    inputs: Tensor<3>,
    reset: Option<Tensor<2, Bool>>,
}

impl SequenceBatch for Series {
    fn steps(&self) -> usize {
        self.inputs.dims()[1]
    }

    fn sequences(&self) -> usize {
        self.inputs.dims()[0]
    }

    fn slice(&self, range: Range<usize>) -> Self {
        let (start, length) = (range.start, range.len());
        let reset = self.reset.clone();
        Self {
            inputs: self.inputs.clone().narrow(1, start, length),
            reset: reset.map(|reset| reset.narrow(1, start, length)),
        }
    }

    fn with_reset_at(&self, step: usize) -> Option<Self> {
        let [sequences, steps, _] = self.inputs.dims();
        let marks: Vec<bool> = (0..sequences * steps).map(|i| i % steps == step).collect();
        let marks = TensorData::new(marks, [sequences, steps]);
        Some(Self {
            reset: Some(Tensor::from_data(marks, &self.inputs.device())),
            ..self.clone()
        })
    }
}

/// A state with a part that `map_parts` may forget.
#[derive(Clone, Debug)]
struct State {
    hidden: Tensor<2>,
    trace: Tensor<2>,
    forgotten: bool,
}

impl RecurrentState for State {
    fn map_parts(self, f: &mut dyn FnMut(Tensor<2>) -> Tensor<2>) -> Self {
        Self {
            hidden: f(self.hidden),
            trace: match self.forgotten {
                true => self.trace,
                false => f(self.trace),
            },
            forgotten: self.forgotten,
        }
    }
}

/// h ← tanh(h W + x U), trace ← (trace + h)/2, with a learned start.
#[derive(Module, Debug)]
struct Toy {
    recurrent: nn::Linear,
    input: nn::Linear,
    start: Param<Tensor<2>>,
    spare: nn::Linear,
    #[module(skip)]
    faults: Faults,
}

const HIDDEN: usize = 4;

fn toy(faults: Faults, device: &Device) -> Toy {
    device.seed(7);
    let linear = |inputs| nn::LinearConfig::new(inputs, HIDDEN).init(device);
    let start = Tensor::from_data([[0.3, -0.2, 0.1, 0.5]], device);
    let mut toy = Toy {
        recurrent: linear(HIDDEN),
        input: linear(1),
        start: Param::from_tensor(start),
        spare: linear(1),
        faults,
    };
    if !faults.unused {
        toy.spare = toy.spare.no_grad();
    }
    toy
}

impl RecurrentModel for Toy {
    type Batch = Series;
    type State = State;

    fn forward(
        &self,
        batch: &Series,
        state: Option<State>,
    ) -> Result<(Tensor<3>, State), ModelError> {
        let faults = self.faults;
        let [sequences, steps, _] = batch.inputs.dims();
        let fresh = self.start.val().repeat_dim(0, sequences);
        let (mut hidden, mut trace) = match state.filter(|_| !faults.forgets) {
            Some(state) => (state.hidden, state.trace),
            None => (fresh.clone(), fresh.clone()),
        };
        let drive = self.input.forward(batch.inputs.clone());
        let drive = match faults.ahead {
            true => drive.clone() + drive.mean_dim(1),
            false => drive,
        };
        let mut features = Vec::new();
        for step in 0..steps {
            if let Some(reset) = batch.reset.clone().filter(|_| !faults.ignores_resets) {
                let reset = reset.narrow(1, step, 1).repeat_dim(1, HIDDEN);
                hidden = hidden.mask_where(reset.clone(), fresh.clone());
                trace = trace.mask_where(reset, fresh.clone());
            }
            let now: Tensor<2> = drive.clone().narrow(1, step, 1).squeeze_dim(1);
            hidden = (self.recurrent.forward(hidden) + now).tanh();
            trace = (trace + hidden.clone()) * 0.5;
            features.push(hidden.clone() + trace.clone());
        }
        let features = match faults.time_major {
            true => Tensor::stack(features, 0),
            false => Tensor::stack(features, 1),
        };
        let state = State {
            hidden,
            trace,
            forgotten: faults.hidden_part,
        };
        Ok((features, state))
    }

    fn loss(&self, features: Tensor<3>, batch: &Series) -> Result<StepLoss, ModelError> {
        let count = batch.steps() * batch.sequences();
        let squares = features.square();
        let sum = match self.faults.mean {
            true => squares.mean(),
            false => squares.sum(),
        };
        let count = if self.faults.count { 1 } else { count };
        Ok(StepLoss::new(sum, count))
    }
}

fn series(device: &Device) -> Series {
    let values: Vec<f32> = (0..SEQUENCES * STEPS).map(|i| (i as f32).sin()).collect();
    let values = TensorData::new(values, [SEQUENCES, STEPS, 1]);
    Series {
        inputs: Tensor::from_data(values, device),
        reset: None,
    }
}

fn check(faults: Faults) -> Result<Vec<&'static str>, ModelError> {
    let device = Device::flex().autodiff();
    check_model(&toy(faults, &device), &series(&device))
}

#[test]
fn a_model_of_ones_own_keeps_all_rules() {
    assert!(check(Faults::default()).unwrap().is_empty());
}

#[test]
fn every_broken_rule_is_named() {
    let sound = Faults::default;
    type Finds = fn(&BrokenRule) -> bool;
    let rows: [(Faults, Finds, &str); 8] = [
        (
            Faults {
                time_major: true,
                ..sound()
            },
            |rule| {
                matches!(
                    rule,
                    BrokenRule::Layout {
                        got: [STEPS, SEQUENCES, HIDDEN],
                        expected: [SEQUENCES, STEPS]
                    }
                )
            },
            "[batch, time, features]",
        ),
        (
            Faults {
                ahead: true,
                ..sound()
            },
            |rule| matches!(rule, BrokenRule::ReadsAhead { difference } if *difference > 0.01),
            "later steps",
        ),
        (
            Faults {
                forgets: true,
                ..sound()
            },
            |rule| matches!(rule, BrokenRule::StateIncomplete { difference } if *difference > 0.01),
            "the state handed on",
        ),
        (
            Faults {
                mean: true,
                ..sound()
            },
            |rule| matches!(rule, BrokenRule::LossNotSummed { .. }),
            "multiply a mean by the number of its terms",
        ),
        (
            Faults {
                count: true,
                ..sound()
            },
            |rule| {
                matches!(
                    rule,
                    BrokenRule::Count {
                        whole: 1,
                        pieces: 2
                    }
                )
            },
            "number of its terms",
        ),
        (
            Faults {
                hidden_part: true,
                ..sound()
            },
            |rule| *rule == BrokenRule::StateAttached,
            "`map_parts`",
        ),
        (
            Faults {
                unused: true,
                ..sound()
            },
            |rule| {
                matches!(rule, BrokenRule::NoGradient { parameters }
                    if *parameters == ["spare.weight", "spare.bias"])
            },
            "spare.weight, spare.bias",
        ),
        (
            Faults {
                ignores_resets: true,
                ..sound()
            },
            |rule| matches!(rule, BrokenRule::Reset { difference } if *difference > 0.01),
            "after a reset",
        ),
    ];
    for (faults, finds, words) in rows {
        let error = check(faults).unwrap_err();
        let text = error.to_string();
        let ModelError::Rules { broken } = error else {
            panic!("{faults:?}: {text}")
        };
        assert!(broken.iter().any(finds), "{faults:?}: {broken:?}");
        assert!(text.contains(words), "{faults:?}: {text}");
    }
    let over_reset = check(Faults {
        ignores_resets: true,
        ..sound()
    });
    assert!(
        matches!(&over_reset, Err(ModelError::Rules { broken }) if broken.contains(&BrokenRule::GradientOverReset)),
        "{over_reset:?}"
    );
}

/// Of as many steps as sequences, the shape of a whole window is the same in both layouts.
#[test]
fn a_time_major_model_is_told_so_even_where_a_window_has_as_many_steps_as_sequences() {
    let device = Device::flex().autodiff();
    let square = series(&device).slice(0..SEQUENCES);
    let model = toy(
        Faults {
            time_major: true,
            ..Faults::default()
        },
        &device,
    );
    let error = check_model(&model, &square).unwrap_err();
    let expected = BrokenRule::Layout {
        got: [1, SEQUENCES, HIDDEN],
        expected: [SEQUENCES, 1],
    };
    assert!(
        matches!(&error, ModelError::Rules { broken } if *broken == [expected]),
        "{error}"
    );
}

/// One layout, `[batch, time, features]`. Models of this library have it, and whatever reads features refuses another,
/// where nobody has checked the model too.
#[test]
fn forward_has_one_layout_batch_time_features() {
    let device = Device::flex().autodiff();
    let batch = tokens(&device);
    fn language_features<L: RecurrentLayer>(batch: &TokenBatch, device: &Device) -> Tensor<3> {
        let config = LanguageModelConfig::new(SEQUENCES * STEPS).with_hidden(5);
        let model = config.with_dropout(0.0).init::<L>(device).unwrap();
        let (features, _) = model.forward(batch, None).unwrap();
        // Step 3 of sequence 1 is where its prefix, alone, puts it.
        let (alone, _) = model.forward(&batch.slice(0..4), None).unwrap();
        let at = |features: Tensor<3>| features.slice([1..2, 3..4, 0..5]).into_data();
        at(features.clone()).assert_approx_eq::<f32>(&at(alone), Tolerance::default());
        features
    }
    for features in [
        language_features::<LstmLayer>(&batch, &device),
        language_features::<GruLayer>(&batch, &device),
        language_features::<RnnLayer>(&batch, &device),
        language_features::<MinGruLayer>(&batch, &device),
    ] {
        assert_eq!(features.dims(), [SEQUENCES, STEPS, 5]);
    }
    let shape = SeriesShape {
        batch: SEQUENCES,
        time: STEPS,
        inputs: 1,
        targets: 1,
    };
    let values = vec![0.5; SEQUENCES * STEPS];
    let batch = SeriesBatch::from_host(values.clone(), values, None, shape, &device).unwrap();
    let model = SeriesModelConfig::new(1, 1, 4)
        .init::<GruLayer>(&device)
        .unwrap();
    let (features, _) = model.forward(&batch, None).unwrap();
    assert_eq!(features.dims(), [SEQUENCES, STEPS, 4]);

    let model = toy(
        Faults {
            time_major: true,
            ..Faults::default()
        },
        &device,
    );
    let batch = series(&device);
    let plan = WindowPlan {
        warm_up: 0,
        loss_from: 3,
        carry: 4,
    };
    let pieces = DirectPlan::new(1, vec![0, 2]);
    for error in [
        model.window(&batch, None, plan).err(),
        model.compensated_window(&batch, None, &[1.0; 5]).err(),
        model.state_gradients(&batch, None).err(),
        piece_gradients(&model, &batch, None, &pieces).err(),
    ] {
        let error = error.unwrap();
        let ModelError::Rules { broken } = &error else {
            panic!("{error}");
        };
        assert!(
            matches!(broken[..], [BrokenRule::Layout { .. }]),
            "{broken:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains("[batch, time, features]") && text.contains("swap"),
            "{text}"
        );
    }
}

#[test]
fn a_batch_of_one_step_cannot_be_cut() {
    let device = Device::flex();
    let error = check_pieces(
        &toy(Faults::default(), &device),
        &series(&device).slice(0..1),
    );
    let error = error.unwrap_err().to_string();
    assert!(error.contains("at least 2 steps, got 1"), "{error}");
}

/// Burn's weights are made when they are first used, and shared with copies until then: freezing a copy froze the model.
#[test]
fn a_probe_of_a_model_that_was_never_used_leaves_it_trainable() {
    let device = Device::flex().autodiff();
    let model = LanguageModelConfig::new(SEQUENCES * STEPS)
        .with_hidden(5)
        .init::<LstmLayer>(&device)
        .unwrap();
    model.state_gradients(&tokens(&device), None).unwrap();
    let (features, _) = model.forward(&tokens(&device), None).unwrap();
    let loss = model.loss(features, &tokens(&device)).unwrap();
    loss.check_tracked("training").unwrap();
}

//! A model of one's own and data of one's own: waves, to be foretold and to be told which of three bands they are in.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failure here is a failed test.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use atbptt_core::FixedKConfig;
use atbptt_models::{
    ModelError, RecurrentModel, RecurrentState, SequenceBatch, StepLoss, WindowLoss, WindowPlan,
};
use atbptt_train::{
    AdaptiveTbptt, ProbeConfig, SequenceSource, Tbptt, TbpttConfig, TbpttHandle, TrainError,
    quiet_renderer, stream_loader,
};
use burn::module::Module;
use burn::nn;
use burn::optim::SgdConfig;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn::train::{Learner, LearningResult, SupervisedTraining};

pub const SEQUENCES: usize = 2;
pub const STEPS: usize = 100;

/// A wave, its next value, and in which of three bands that lies; targets where `known` says so.
#[derive(Clone, Debug)]
pub struct WaveBatch {
    pub inputs: Tensor<3>,
    pub next: Tensor<3>,
    pub bands: Tensor<2, Int>,
    /// By step.
    pub known: Vec<bool>,
}

impl SequenceBatch for WaveBatch {
    fn steps(&self) -> usize {
        self.known.len()
    }

    fn sequences(&self) -> usize {
        SEQUENCES
    }

    fn slice(&self, range: Range<usize>) -> Self {
        let (start, length) = (range.start, range.len());
        Self {
            inputs: self.inputs.clone().narrow(1, start, length),
            next: self.next.clone().narrow(1, start, length),
            bands: self.bands.clone().narrow(1, start, length),
            known: self.known[range].to_vec(),
        }
    }
}

/// A wave with an input that is no number at one step, and without targets at others.
#[derive(Clone, Debug, Default)]
pub struct Waves {
    pub broken: Option<usize>,
    pub unknown: Range<usize>,
}

pub fn wave(step: usize) -> f32 {
    (step as f32 * 0.7).sin()
}

impl SequenceSource for Waves {
    type Batch = WaveBatch;

    fn sequences(&self) -> usize {
        SEQUENCES
    }

    fn common_steps(&self) -> usize {
        STEPS
    }

    fn active(&self, step: usize) -> usize {
        if step < STEPS { SEQUENCES } else { 0 }
    }

    fn window(&self, start: usize, len: usize, device: &Device) -> Result<WaveBatch, TrainError> {
        self.gather(&[start; SEQUENCES], len, device)
    }

    fn gather(
        &self,
        starts: &[usize],
        len: usize,
        device: &Device,
    ) -> Result<WaveBatch, TrainError> {
        let steps = || starts.iter().flat_map(|&start| start..start + len);
        let tensor = |value: &dyn Fn(usize) -> f32| {
            let values: Vec<f32> = steps().map(value).collect();
            Tensor::<3>::from_data(TensorData::new(values, [SEQUENCES, len, 1]), device)
        };
        let band = |step| match wave(step + 1) {
            low if low < -0.3 => 0,
            high if high > 0.3 => 2,
            _ => 1,
        };
        let bands: Vec<i64> = steps().map(band).collect();
        Ok(WaveBatch {
            inputs: tensor(&|step| match self.broken == Some(step) {
                true => f32::NAN,
                false => wave(step),
            }),
            next: tensor(&|step| wave(step + 1)),
            bands: Tensor::from_data(TensorData::new(bands, [SEQUENCES, len]), device),
            known: (starts[0]..starts[0] + len)
                .map(|step| !self.unknown.contains(&step))
                .collect(),
        })
    }
}

/// What a test changes about the model.
#[derive(Clone, Debug, Default)]
pub struct Habits {
    /// Hands on a state that is still in the graph.
    pub attached: bool,
    /// Predicts bands instead of values.
    pub classes: bool,
    /// First number of the state that each training window began with.
    pub seen: Arc<Mutex<Vec<Option<f32>>>>,
}

#[derive(Module, Debug)]
pub struct WaveModel {
    pub lstm: nn::Lstm,
    pub decoder: nn::Linear,
    #[module(skip)]
    pub habits: Habits,
}

pub fn wave_model(habits: Habits) -> WaveModel {
    let device = Device::flex().autodiff();
    device.seed(3);
    let outputs = if habits.classes { 3 } else { 1 };
    WaveModel {
        lstm: nn::LstmConfig::new(1, 8, true).init(&device),
        decoder: nn::LinearConfig::new(8, outputs).init(&device),
        habits,
    }
}

impl RecurrentModel for WaveModel {
    type Batch = WaveBatch;
    type State = nn::LstmState<2>;

    fn forward(
        &self,
        batch: &WaveBatch,
        state: Option<Self::State>,
    ) -> Result<(Tensor<3>, Self::State), ModelError> {
        Ok(self.lstm.forward(batch.inputs.clone(), state))
    }

    fn loss(&self, features: Tensor<3>, batch: &WaveBatch) -> Result<StepLoss, ModelError> {
        let known: Vec<i64> = (0..batch.steps())
            .filter(|step| batch.known[*step])
            .map(|step| step as i64)
            .collect();
        let count = SEQUENCES * known.len();
        if count == 0 {
            return Ok(StepLoss::new(Tensor::zeros([1], &features.device()), 0));
        }
        let known = Tensor::<1, Int>::from_data(
            TensorData::new(known.clone(), [known.len()]),
            &features.device(),
        );
        let features = features.select(1, known.clone());
        let outputs: Tensor<2> = self.decoder.forward(features).flatten(0, 1);
        if self.habits.classes {
            let targets = batch.bands.clone().select(1, known).reshape([count]);
            let rows = targets.clone().reshape([count, 1]);
            let sum = log_softmax(outputs.clone(), 1).gather(1, rows).sum().neg();
            return Ok(StepLoss::new(sum, count).with_classes(outputs, targets));
        }
        let targets: Tensor<2> = batch.next.clone().select(1, known).flatten(0, 1);
        let sum = (outputs.clone() - targets.clone()).square().sum();
        Ok(StepLoss::new(sum, count).with_values(outputs, targets))
    }

    fn window(
        &self,
        batch: &WaveBatch,
        state: Option<Self::State>,
        plan: WindowPlan,
    ) -> Result<WindowLoss<Self::State>, ModelError> {
        if batch.inputs.device().is_autodiff() {
            let first = |state: &Self::State| {
                let part = state.parts().remove(0);
                part.into_data().iter::<f32>().next().unwrap()
            };
            let mut seen = self.habits.seen.lock().unwrap();
            seen.push(state.as_ref().map(first));
        }
        // Written out, for a state that may stay in the graph.
        let (steps, tail) = (batch.steps(), plan.loss_from);
        let (features, _) = self.forward(batch, state.clone())?;
        let loss = self.loss(
            features.narrow(1, tail, steps - tail),
            &batch.slice(tail..steps),
        )?;
        let carried = match plan.carry {
            0 => state,
            carry => Some(self.forward(&batch.slice(0..carry), state)?.1),
        };
        let state = match self.habits.attached {
            true => carried,
            false => carried.map(RecurrentState::detach),
        };
        Ok(WindowLoss { loss, state })
    }
}

/// Chunks of 10 steps, so that windows are easily counted.
pub fn config() -> TbpttConfig {
    TbpttConfig {
        probe: ProbeConfig::new(20),
        eval_chunk: 10,
        ..TbpttConfig::default().with_losses(10)
    }
}

pub fn training(train: Waves, valid: Waves, folder: &Path) -> SupervisedTraining<Tbptt<WaveModel>> {
    SupervisedTraining::new(folder, stream_loader(train), stream_loader(valid))
        .renderer(quiet_renderer())
        .with_application_logger(None)
}

pub fn learner(habits: Habits) -> Learner<Tbptt<WaveModel>> {
    Learner::new(Tbptt::new(wave_model(habits)), SgdConfig::new().init(), 0.1)
}

pub fn launch(
    training: SupervisedTraining<Tbptt<WaveModel>>,
    strategy: AdaptiveTbptt,
    habits: Habits,
) -> (LearningResult<Tbptt<WaveModel>>, TbpttHandle) {
    let handle = strategy.handle();
    let result = training
        .with_training_strategy(strategy.into_strategy())
        .launch(learner(habits));
    (result, handle)
}

pub fn strategy(k: usize) -> AdaptiveTbptt {
    AdaptiveTbptt::new(FixedKConfig::new(k).init().unwrap(), config()).unwrap()
}

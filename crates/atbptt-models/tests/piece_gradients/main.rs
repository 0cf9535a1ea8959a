//! Piece gradients and the direct estimate for any model: what they add up to, what they mean, what is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test that cannot go on should stop

#[path = "../common/mod.rs"]
mod common;

mod meaning;
mod refusals;

use atbptt_core::{DirectStatistics, EstimateError, Scheme};
use atbptt_models::{
    DirectPlan, GruLayer, LanguageModel, LanguageModelConfig, LstmLayer, MinGruLayer, ModelError,
    PieceGradients, RecurrentLayer, RecurrentModel, RecurrentState, RnnLayer, SequenceBatch,
    StepLoss, TokenBatch, direct_statistics, piece_gradients,
};
use burn::module::{Module, ParamId, list_param_ids};
use burn::tensor::{Bool, DType, Device, Tensor, TensorData};
use common::{all_devices, assert_close, finest, noise, values, weight_gradients, with_noise};
use std::sync::{Mutex, MutexGuard, PoisonError};

const WORDS: usize = 9;

const HIDDEN: usize = 5;

const BATCH: usize = 3;

/// Weights and dropout are drawn from one generator per device, so that tests take turns, and this file is a binary of its own.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn model<L: RecurrentLayer>(dropout: f64, device: &Device, dtype: DType) -> LanguageModel<L> {
    let config = LanguageModelConfig::new(WORDS)
        .with_hidden(HIDDEN)
        .with_layers(2)
        .with_dropout(dropout);
    with_noise(config.init(device).unwrap(), 3, 0.6, dtype)
}

fn tokens(steps: usize, sequences: usize, device: &Device) -> TokenBatch {
    let ids = |offset: usize| -> Vec<i64> {
        let count = steps * sequences;
        (0..count)
            .map(|i| ((i * 7 + offset * 3 + i * i) % WORDS) as i64)
            .collect()
    };
    TokenBatch::from_host(&ids(0), &ids(1), sequences, steps, device).unwrap()
}

/// Sequence 1 restarts within the window.
fn with_marks(batch: TokenBatch, device: &Device) -> TokenBatch {
    let (steps, sequences) = (batch.steps(), batch.sequences());
    let mut marks = vec![false; sequences * steps];
    marks[steps + 4] = true;
    let marks = Tensor::<2, Bool>::from_data(TensorData::new(marks, [sequences, steps]), device);
    batch.with_reset(marks).unwrap()
}

/// The gradients of pieces `range` summed, all parameters one after the other.
fn sum(gradients: &PieceGradients, range: std::ops::Range<usize>) -> Vec<f64> {
    let parts = gradients.parameters().iter().map(|p| {
        p.gradients
            .clone()
            .narrow(0, range.start, range.len())
            .sum_dim(0)
    });
    parts.flat_map(values).collect()
}

/// With dropout and a reset: what is kept at a cut is the gradient of a run whose state is detached there, with the same draws.
fn check_pieces<L: RecurrentLayer>() {
    for (backend, device) in all_devices() {
        let dtypes: &[DType] = match finest(&device) {
            DType::F64 => &[DType::F64, DType::F32],
            _ => &[DType::F32],
        };
        let device = device.autodiff();
        let cuts = [vec![0, 1, 4], vec![0, 3, 5], vec![0, 1, 2, 7]];
        // A software GPU takes seconds to compile what one set of cuts needs.
        let sets = if dtypes.len() > 1 { cuts.len() } else { 1 };
        let cases = dtypes.iter().flat_map(|dtype| {
            let cuts = cuts.iter().take(sets);
            cuts.map(|contexts| (*dtype, contexts.clone()))
        });
        for (dtype, contexts) in cases {
            let label = format!("{} on {backend}, {dtype:?}, cuts {contexts:?}", L::NAME);
            check_cuts_of::<L>(&label, &device, dtype, &contexts);
        }
    }
}

fn check_cuts_of<L: RecurrentLayer>(
    label: &str,
    device: &Device,
    dtype: DType,
    contexts: &[usize],
) {
    let tolerance = match dtype {
        DType::F64 => 1e-12,
        _ => 2e-6,
    };
    let model = model::<L>(0.3, device, dtype);
    let batch = with_marks(tokens(9, BATCH, device), device);
    let plan = DirectPlan::new(2, contexts.to_vec()).with_all_weights(true);
    device.seed(5);
    let gradients = piece_gradients(&model, &batch, None, &plan).unwrap();
    // 9 steps, the last two with a loss: from the start of the window to its end.
    let mut bounds: Vec<usize> = contexts.iter().rev().map(|c| 7 - c).collect();
    bounds.push(9);
    if bounds[0] > 0 {
        bounds.insert(0, 0);
    }
    let pieces = bounds.len() - 1;
    for cut in 0..pieces {
        device.seed(5);
        let mut state: Option<Vec<L::State>> = None;
        let mut last = None;
        for piece in 0..pieces {
            let part = batch.slice(bounds[piece]..bounds[piece + 1]);
            let (features, after) = model.forward(&part, state).unwrap();
            let detach = pieces - piece == cut + 2;
            state = Some(if detach { after.detach() } else { after });
            last = Some((features, part));
        }
        let (features, part) = last.unwrap();
        let loss = model.loss(features, &part).unwrap();
        assert_eq!(loss.count, 2 * BATCH);
        let grads = (loss.sum * (1.0 / loss.count as f64)).backward();
        let label = format!("{label}, cut {cut}");
        let expected = weight_gradients(&model, &grads);
        assert_close(&label, &sum(&gradients, 0..cut + 1), &expected, tolerance);
        let large = expected.iter().any(|g| g.abs() > 1e-3);
        assert!(large, "{label}: a gradient to speak of");
    }
    // The recurrent weights alone: the same numbers, for those.
    device.seed(5);
    let recurrent = DirectPlan::new(2, contexts.to_vec());
    let some = piece_gradients(&model, &batch, None, &recurrent).unwrap();
    let layers = list_param_ids(&model.layers);
    assert_eq!(some.parameters().len(), layers.len());
    let expected = sum(&gradients.only(&layers), 0..pieces);
    assert_close(label, &sum(&some, 0..pieces), &expected, tolerance);
}

#[test]
fn pieces_add_up_to_truncated_gradients_for_an_lstm() {
    let _turn = turn();
    check_pieces::<LstmLayer>();
}

#[test]
fn pieces_add_up_to_truncated_gradients_for_a_gru() {
    let _turn = turn();
    check_pieces::<GruLayer>();
}

#[test]
fn pieces_add_up_to_truncated_gradients_for_a_tanh_rnn() {
    let _turn = turn();
    check_pieces::<RnnLayer>();
}

#[test]
fn pieces_add_up_to_truncated_gradients_for_a_min_gru() {
    let _turn = turn();
    check_pieces::<MinGruLayer>();
}

/// Nothing but `forward` and `loss`.
#[derive(Module, Debug)]
struct Plain {
    model: LanguageModel<LstmLayer>,
    detach: bool,
    /// Factor of the loss.
    loss_times: f64,
    #[module(skip)]
    counted: Option<Vec<ParamId>>,
}

impl RecurrentModel for Plain {
    type Batch = TokenBatch;
    type State = <LanguageModel<LstmLayer> as RecurrentModel>::State;

    fn forward(
        &self,
        batch: &TokenBatch,
        state: Option<Self::State>,
    ) -> Result<(Tensor<3>, Self::State), ModelError> {
        let (features, state) = self.model.forward(batch, state)?;
        Ok((features, if self.detach { state.detach() } else { state }))
    }

    fn loss(&self, features: Tensor<3>, batch: &TokenBatch) -> Result<StepLoss, ModelError> {
        let mut loss = self.model.loss(features, batch)?;
        loss.sum = loss.sum * self.loss_times;
        Ok(loss)
    }

    fn counted_parameters(&self) -> Option<Vec<ParamId>> {
        self.counted.clone()
    }
}

fn plain(device: &Device) -> Plain {
    let config = LanguageModelConfig::new(WORDS)
        .with_hidden(HIDDEN)
        .with_dropout(0.0)
        .with_tied(false);
    Plain {
        model: with_noise(config.init(device).unwrap(), 3, 0.6, DType::F32),
        detach: false,
        loss_times: 1.0,
        counted: None,
    }
}

#[test]
fn by_default_all_that_forward_uses_counts() {
    let _turn = turn();
    let device = Device::flex().autodiff();
    let model = plain(&device);
    let batch = tokens(9, BATCH, &device);
    let plan = DirectPlan::new(2, vec![0, 3]);
    let gradients = piece_gradients(&model, &batch, None, &plan).unwrap();
    let mut expected = list_param_ids(&model.model.embedding);
    expected.extend(list_param_ids(&model.model.layers));
    let got: Vec<ParamId> = gradients.parameters().iter().map(|p| p.id).collect();
    assert_eq!(got, expected);
    // Frozen weights are not trained, and do not count.
    let mut frozen = model.clone();
    frozen.model.embedding = frozen.model.embedding.no_grad();
    let gradients = piece_gradients(&frozen, &batch, None, &plan).unwrap();
    assert_eq!(gradients.parameters().len(), expected.len() - 1);
}

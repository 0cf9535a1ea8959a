//! Exact evaluation: every loss of a source counts once, the state carried throughout.

use atbptt_models::{
    RecurrentModel, RecurrentState, SequenceBatch, StepLoss, WindowPlan, check_layout,
};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::TrainError;
use crate::device::check_device;
use crate::source::SequenceSource;

/// A summed loss and the number of terms in it.
#[derive(Clone, Copy, Debug)]
pub struct SummedLoss {
    /// Sum, in nats.
    pub sum: f64,
    /// Number of terms.
    pub count: usize,
}

/// A chunk of a source: as long as asked for, unless the source ends or a sequence in it does.
pub(crate) fn next_chunk<B>(
    source: &dyn SequenceSource<Batch = B>,
    start: usize,
    steps: usize,
) -> Option<(usize, usize)>
where
    B: SequenceBatch,
{
    let sequences = source.active(start);
    if sequences == 0 {
        return None;
    }
    // `active` never grows: halve the interval until the step where a sequence ends.
    let (mut inside, mut outside) = (start, start.saturating_add(steps.max(1)));
    if source.active(outside - 1) == sequences {
        return Some((sequences, outside - start));
    }
    while outside - inside > 1 {
        let middle = inside + (outside - inside) / 2;
        match source.active(middle) == sequences {
            true => inside = middle,
            false => outside = middle,
        }
    }
    Some((sequences, outside - start))
}

/// The state of the first `sequences` sequences.
pub(crate) fn keep_first<S: RecurrentState>(state: S, sequences: usize, device: &Device) -> S {
    if state.batch_size() <= sequences {
        return state;
    }
    let first: Vec<i64> = (0..sequences as i64).collect();
    let first = Tensor::<1, Int>::from_data(TensorData::new(first, [sequences]), device);
    state.select(first)
}

/// Summed loss of all of `source` in chunks of `chunk` steps. The chunk length changes memory and speed, not the result.
///
/// Call it with `model.valid()`, so that dropout is off and no graph is built.
///
/// # Errors
///
/// [`TrainError::Data`] and [`TrainError::Model`] as source and model raise them, [`TrainError::Device`] for a backend that
/// cannot run this library's operations.
pub fn evaluate<M: RecurrentModel>(
    model: &M,
    source: &dyn SequenceSource<Batch = M::Batch>,
    chunk: usize,
    device: &Device,
) -> Result<SummedLoss, TrainError> {
    run(source, chunk, device, |_, batch, state| {
        let plan = WindowPlan {
            warm_up: 0,
            loss_from: 0,
            carry: batch.steps(),
        };
        let window = model.window(&batch, state, plan)?;
        Ok((window.loss, window.state))
    })
}

/// A chunk of a source, as [`evaluate_with`] shows it.
#[derive(Debug)]
#[non_exhaustive]
pub struct EvaluatedChunk<'a, B> {
    /// First step of the source.
    pub start: usize,
    /// Inputs and targets of its steps.
    pub batch: &'a B,
    /// What the loss reads, `[batch, time, features]`.
    pub features: Tensor<3>,
    /// Its loss, with predictions where the model gives them.
    pub loss: &'a StepLoss,
}

/// As [`evaluate`], and shows every chunk to `look`: for measures of one's own, such as an error in the units of the data.
///
/// ```
/// # use atbptt_models::{LanguageModelConfig, LstmLayer};
/// # use atbptt_train::data::{Corpus, Split, SyntheticConfig};
/// # use atbptt_train::{TokenSource, evaluate_with};
/// # use burn::tensor::Device;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let corpus = Corpus::synthetic(&SyntheticConfig::default().with_tokens(4_000, 500, 500))?;
/// # let source = TokenSource::evaluation(corpus.tokens(Split::Valid), 4)?;
/// # let device = Device::default();
/// # let words = corpus.vocabulary().len();
/// # let model = LanguageModelConfig::new(words).with_hidden(8).init::<LstmLayer>(&device)?;
/// let mut largest = f64::MIN;
/// let loss = evaluate_with(&model, &source, 50, &device, |chunk| {
///     largest = largest.max(chunk.features.max().into_scalar::<f64>());
///     Ok(())
/// })?;
/// assert!(largest < 1.0 && loss.count == 499);
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// As [`evaluate`], and what `look` raises.
pub fn evaluate_with<M: RecurrentModel>(
    model: &M,
    source: &dyn SequenceSource<Batch = M::Batch>,
    chunk: usize,
    device: &Device,
    mut look: impl FnMut(EvaluatedChunk<'_, M::Batch>) -> Result<(), TrainError>,
) -> Result<SummedLoss, TrainError> {
    run(source, chunk, device, |start, batch, state| {
        let (features, state) = model.forward(&batch, state)?;
        check_layout(&features, &batch)?;
        let loss = model.loss(features.clone(), &batch)?;
        look(EvaluatedChunk {
            start,
            batch: &batch,
            features,
            loss: &loss,
        })?;
        Ok((loss, Some(state)))
    })
}

/// The chunks of `source`, one after the other, through `step`, which takes a chunk's first step, its batch and the state carried
/// into it.
fn run<B: SequenceBatch, S: RecurrentState>(
    source: &dyn SequenceSource<Batch = B>,
    chunk: usize,
    device: &Device,
    mut step: impl FnMut(usize, B, Option<S>) -> Result<(StepLoss, Option<S>), TrainError>,
) -> Result<SummedLoss, TrainError> {
    check_device(device)?;
    let mut total = SummedLoss { sum: 0.0, count: 0 };
    let mut state: Option<S> = None;
    let mut start = 0;
    while let Some((sequences, steps)) = next_chunk(source, start, chunk) {
        let batch = source.window(start, steps, device)?;
        let carried = state.map(|state| keep_first(state, sequences, device));
        let (loss, after) = step(start, batch, carried)?;
        total.sum += read_scalar(loss.sum)?;
        total.count += loss.count;
        state = after;
        start += steps;
    }
    Ok(total)
}

pub(crate) fn read_scalar(tensor: Tensor<1>) -> Result<f64, TrainError> {
    let data = tensor.try_into_data().map_err(|error| TrainError::Read {
        reason: format!("{error:?}"),
    })?;
    Ok(data.iter::<f64>().next().unwrap_or(f64::NAN))
}

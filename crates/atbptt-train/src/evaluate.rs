//! Exact evaluation: every loss of a source counts once, the state carried throughout.

use atbptt_models::{RecurrentModel, RecurrentState, StepLoss, WindowPlan};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::TrainError;
use crate::metrics::SummedLoss;
use crate::source::SequenceSource;

/// A chunk of a source: as long as asked for, unless the source ends or a sequence in it does.
pub(crate) fn next_chunk<B>(
    source: &dyn SequenceSource<Batch = B>,
    start: usize,
    steps: usize,
) -> Option<(usize, usize)>
where
    B: atbptt_models::SequenceBatch,
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
/// [`TrainError::Data`] and [`TrainError::Model`] as source and model raise them.
pub fn evaluate<M: RecurrentModel>(
    model: &M,
    source: &dyn SequenceSource<Batch = M::Batch>,
    chunk: usize,
    device: &Device,
) -> Result<SummedLoss, TrainError> {
    let mut total = SummedLoss { sum: 0.0, count: 0 };
    let mut state: Option<M::State> = None;
    let mut start = 0;
    while let Some((sequences, steps)) = next_chunk(source, start, chunk) {
        let batch = source.window(start, steps, device)?;
        let carried = state.map(|state| keep_first(state, sequences, device));
        let plan = WindowPlan {
            warm_up: 0,
            loss_from: 0,
            carry: steps,
        };
        let window = model.window(&batch, carried, plan)?;
        let StepLoss { sum, count } = window.loss;
        total.sum += read_scalar(sum)?;
        total.count += count;
        state = window.state;
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

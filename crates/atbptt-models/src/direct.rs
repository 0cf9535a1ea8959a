//! Weight gradients of the pieces of a window: the raw material of the direct estimate.
//!
//! Symbols (METHOD §8): the window has T = W + m − 1 steps and the mean loss of its last m; cut c lies c steps before the
//! first loss. Piece 0 are the steps of the losses, piece p those between cuts p − 1 and p, the last one the rest of the
//! window.
//!
//! Every piece runs on a copy of the counted weights of its own: the same values, each a leaf of the graph. One backward pass
//! then gives every piece's gradient apart, for any [`RecurrentModel`], its kernels, dropout and resets as they are: all
//! pieces are one forward pass, so that every cut sees the same dropped units.

mod counted;

use std::collections::HashSet;

use atbptt_core::direct::check_cuts;
use atbptt_core::{DirectStatistics, EstimateError};
use burn::module::ParamId;
use burn::tensor::{Device, Tensor, TensorData};

use self::counted::{Copy, Counted};
use crate::ModelError;
use crate::batch::SequenceBatch;
use crate::check::check_layout;
use crate::probe::autodiff_device;
use crate::recurrent::RecurrentModel;
use crate::state::RecurrentState;

/// Rows of weight matrices whose products are summed at once: bounds the copy that a product needs.
const ROWS_AT_ONCE: usize = 64;

/// How a probe cuts its window, and which gradients it keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectPlan {
    /// m, the steps at the window's end that carry a loss, at least 1.
    pub losses: usize,
    /// The cuts c, ascending from 0, below W, in steps before the first loss.
    pub contexts: Vec<usize>,
    /// Whether all weights that are trained count, embeddings and decoders too; a copy of each per piece must fit into memory. By
    /// default those that [`RecurrentModel::counted_parameters`] names.
    pub all_weights: bool,
    /// Rows of weight matrices whose gradients are kept, over all of them; a seeded subset where there are more. Bounds the
    /// memory of a probe to pieces × rows × columns. 256 is plenty: 32 gave 0.29 for 0.30.
    pub max_rows: usize,
}

impl DirectPlan {
    /// The recurrent weights, at most 256 rows of them.
    pub fn new(losses: usize, contexts: Vec<usize>) -> Self {
        Self {
            losses,
            contexts,
            all_weights: false,
            max_rows: 256,
        }
    }

    /// Sets [`DirectPlan::all_weights`].
    pub fn with_all_weights(mut self, all_weights: bool) -> Self {
        self.all_weights = all_weights;
        self
    }

    /// Sets [`DirectPlan::max_rows`].
    pub fn with_max_rows(mut self, max_rows: usize) -> Self {
        self.max_rows = max_rows;
        self
    }
}

/// Weight gradients of one probe, a piece at a time.
#[derive(Clone, Debug)]
pub struct PieceGradients {
    window: usize,
    losses: usize,
    contexts: Vec<usize>,
    parameters: Vec<ParameterPieces>,
}

/// The gradients of one parameter.
#[derive(Clone, Debug)]
pub struct ParameterPieces {
    /// Which parameter.
    pub id: ParamId,
    /// `[piece, row, column]`, pieces from the newest to the oldest; rows are the parameter's first dimension, for a vector one.
    pub gradients: Tensor<3>,
    /// How many rows of the parameter each kept one stands for, at least 1.
    pub rows_per_kept: f64,
}

/// Weight gradients of the mean loss of the last `plan.losses` steps of `batch`, for every piece of it.
///
/// - `batch`: the probe's window of W + m − 1 steps
/// - `state`: the one it starts from, `None` at the start of a sequence; no gradient leaves through it
///
/// Dropout stays on, as in training. Training in 16 bits does not matter here: probes run in f32.
///
/// # Errors
///
/// [`ModelError::Estimate`] for losses and cuts that do not fit the window; [`ModelError::NoAutodiff`] on a device without
/// autodiff; [`ModelError::Untracked`] when no weight that counts is trained; [`ModelError::NoGradient`] when one that the
/// model names has no gradient; [`ModelError::GradientCut`] when none reaches the steps before the losses; and as
/// [`RecurrentModel::forward`] and [`RecurrentModel::loss`].
pub fn piece_gradients<M: RecurrentModel>(
    model: &M,
    batch: &M::Batch,
    state: Option<M::State>,
    plan: &DirectPlan,
) -> Result<PieceGradients, ModelError> {
    const WHAT: &str = "the direct estimate of the bias";
    let (steps, losses) = (batch.steps(), plan.losses);
    let window = (steps + 1).saturating_sub(losses);
    check_cuts(window, losses, &plan.contexts)?;
    let device = autodiff_device(model, WHAT)?;
    let counted = Counted::of(model, plan.all_weights);
    if counted.ids.is_empty() {
        return Err(ModelError::Untracked { what: WHAT });
    }

    let frozen = model.clone().map(&mut Copy(&HashSet::new()));
    let mut state = state.map(|state| state.to_device(&device).detach());
    let mut copies: Vec<M> = Vec::new();
    let mut last = None;
    // From the oldest piece to the newest.
    let first_loss = steps - losses;
    let cuts = plan.contexts.iter().rev().map(|c| first_loss - c);
    let mut from = 0;
    for to in cuts.chain([steps]) {
        if to == from {
            continue; // The last cut lies at the window's start.
        }
        let copy = model.clone().map(&mut Copy(&counted.ids));
        let piece = batch.slice(from..to);
        let (features, after) = copy.forward(&piece, state)?;
        check_layout(&features, &piece)?;
        state = Some(after);
        last = Some((features, piece));
        copies.push(copy);
        from = to;
    }
    copies.reverse();
    let Some((features, piece)) = last else {
        return Err(ModelError::Empty {
            what: "probe window",
            missing: "time steps",
        });
    };
    let decoder = match plan.all_weights {
        true => copies.first().unwrap_or(&frozen),
        false => &frozen,
    };
    let loss = decoder.loss(features, &piece)?;
    loss.check_tracked(WHAT)?;
    // A division's way back would round the divisor's inverse to f32, whatever the type.
    let mean = loss.sum * (1.0 / loss.count.max(1) as f64);
    let mut grads = mean.backward();

    let pieces: Vec<_> = copies
        .iter()
        .map(|copy| counted.take(copy, &mut grads))
        .collect();
    let cut_off = |piece: &Vec<(ParamId, Option<Tensor<2>>)>| {
        piece.iter().all(|(_, gradient)| gradient.is_none())
    };
    if let Some(cut) = pieces.iter().position(cut_off) {
        return Err(match cut {
            0 => ModelError::Untracked { what: WHAT },
            _ => ModelError::GradientCut {
                steps: plan.contexts.get(cut - 1).map_or(0, |context| *context),
            },
        });
    }
    Ok(PieceGradients {
        window,
        losses,
        contexts: plan.contexts.clone(),
        parameters: counted.stack(pieces, plan.max_rows)?,
    })
}

/// The inner products of all pairs of (probe, piece).
///
/// Products of rows are taken on the device and summed over rows here, in f64; how large gradients are does not matter. Probes are
/// taken in the order given, so that workers may bring theirs together.
///
/// # Errors
///
/// [`ModelError::Estimate`] below two probes, for probes of different plans, and for gradients that are not finite;
/// [`ModelError::Read`] when the read-back fails.
pub fn direct_statistics(probes: &[PieceGradients]) -> Result<DirectStatistics, ModelError> {
    let Some(first) = probes.first().filter(|_| probes.len() > 1) else {
        return Err(EstimateError::TooFewProbes {
            needed: 2,
            got: probes.len(),
        }
        .into());
    };
    if let Some(other) = probes.iter().find(|probe| probe.key() != first.key()) {
        let words = |probe: &PieceGradients| format!("{:?}", probe.key());
        return Err(EstimateError::UnequalProbes {
            first: words(first),
            other: words(other),
        }
        .into());
    }
    let pieces = first.contexts.len()
        + usize::from(first.contexts.last().is_some_and(|c| c + 1 < first.window));
    let side = probes.len() * pieces;
    let mut gram = vec![0.0; side * side];
    for (index, parameter) in first.parameters.iter().enumerate() {
        let of_all = probes.iter().filter_map(|p| p.parameters.get(index));
        let gradients: Vec<_> = of_all.map(|part| &part.gradients).collect();
        for (sum, product) in gram.iter_mut().zip(products(&gradients)?) {
            *sum += parameter.rows_per_kept * product;
        }
    }
    let (window, losses, contexts) = (first.window, first.losses, first.contexts.clone());
    Ok(DirectStatistics::new(
        window,
        losses,
        contexts,
        probes.len(),
        gram,
    )?)
}

/// The inner products of all pairs of (probe, piece) for one parameter, of probes' gradients `[piece, row, column]`.
///
/// The older a piece, the smaller its gradient. Products of small numbers fall below the normal ones of f32, where they lose their
/// digits and processors many times their speed. So each piece is divided by its peak before products are taken, and the sums are
/// multiplied by the peaks afterwards, in f64.
fn products(gradients: &[&Tensor<3>]) -> Result<Vec<f64>, ModelError> {
    let Some(first) = gradients.first() else {
        return Ok(Vec::new());
    };
    let (device, [_, rows, _]) = (first.device(), first.dims());
    let of_all = |part: &dyn Fn(&Tensor<3>) -> Tensor<3>| {
        let parts = gradients.iter().map(|g| part(g).to_device(&device));
        Tensor::cat(parts.collect(), 0)
    };
    let peaks = of_all(&peaks);
    let scales: Vec<f64> = read(peaks.clone())?.iter().collect();
    let mut sums = vec![0.0; scales.len() * scales.len()];
    for start in (0..rows).step_by(ROWS_AT_ONCE) {
        let block = ROWS_AT_ONCE.min(rows - start);
        let vectors = of_all(&|g| g.clone().narrow(1, start, block)) / peaks.clone();
        // [probe and piece, row, column] to one product per row.
        let vectors = vectors.swap_dims(0, 1);
        let products = read(vectors.clone().matmul(vectors.swap_dims(1, 2)))?;
        let mut products = products.iter::<f64>();
        for _ in 0..block {
            for (sum, product) in sums.iter_mut().zip(products.by_ref()) {
                *sum += product;
            }
        }
    }
    for (line, left) in sums.chunks_exact_mut(scales.len().max(1)).zip(&scales) {
        for (sum, right) in line.iter_mut().zip(&scales) {
            *sum *= left * right;
        }
    }
    Ok(sums)
}

/// The largest absolute value of every piece, `[piece, 1, 1]`; 1 where it is no normal number.
fn peaks(gradients: &Tensor<3>) -> Tensor<3> {
    let peaks = gradients.clone().max_abs_dims(&[1, 2]);
    let tiny = peaks.clone().lower_elem(f32::MIN_POSITIVE);
    peaks.mask_fill(tiny, 1.0)
}

/// The values of a tensor, on the host.
fn read<const D: usize>(tensor: Tensor<D>) -> Result<TensorData, ModelError> {
    tensor.try_into_data().map_err(|error| ModelError::Read {
        reason: format!("{error:?}"),
    })
}

impl PieceGradients {
    /// What probes must have in common to be compared.
    #[allow(clippy::type_complexity)] // Read once.
    fn key(&self) -> (usize, usize, &[usize], Vec<(ParamId, [usize; 3])>) {
        let shapes = self.parameters.iter().map(|p| (p.id, p.gradients.dims()));
        (self.window, self.losses, &self.contexts, shapes.collect())
    }

    /// The gradients, parameter by parameter, in visiting order.
    #[doc(hidden)]
    pub fn parameters(&self) -> &[ParameterPieces] {
        &self.parameters
    }

    /// The gradients of the parameters named, in place of all.
    pub fn only(mut self, ids: &[ParamId]) -> Self {
        self.parameters
            .retain(|parameter| ids.contains(&parameter.id));
        self
    }

    /// Moves the gradients to `device`, from a worker's to the one where products are taken.
    pub fn to_device(mut self, device: &Device) -> Self {
        for parameter in &mut self.parameters {
            parameter.gradients = parameter.gradients.clone().to_device(device);
        }
        self
    }

    /// The mean of several probes, as if their windows had been one batch.
    ///
    /// # Errors
    ///
    /// [`ModelError::Empty`] for no probe, [`ModelError::Estimate`] for probes of different plans.
    pub fn mean(probes: Vec<Self>) -> Result<Self, ModelError> {
        let count = probes.len();
        let mut probes = probes.into_iter();
        let Some(mut sum) = probes.next() else {
            return Err(ModelError::Empty {
                what: "a mean of piece gradients",
                missing: "probes",
            });
        };
        for probe in probes {
            if probe.key() != sum.key() {
                return Err(EstimateError::UnequalProbes {
                    first: format!("{:?}", sum.key()),
                    other: format!("{:?}", probe.key()),
                }
                .into());
            }
            for (sum, part) in sum.parameters.iter_mut().zip(probe.parameters) {
                sum.gradients = sum.gradients.clone() + part.gradients;
            }
        }
        for parameter in &mut sum.parameters {
            parameter.gradients = parameter.gradients.clone() / count as f64;
        }
        Ok(sum)
    }
}

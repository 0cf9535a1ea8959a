//! Weight gradients of the pieces of a window: the raw material of the direct estimate.
//!
//! Symbols (METHOD §8): the window has T = W + m − 1 steps and the mean loss of its last m; cut c lies c steps before the
//! first loss. Piece 0 are the steps of the losses, piece p those between cuts p − 1 and p, the last one the rest of the
//! window.
//!
//! Every piece runs on a copy of the counted weights of its own: the same values, each a leaf of the graph. One backward pass
//! then gives every piece's gradient apart, for any [`RecurrentModel`], its kernels, dropout and resets as they are: all
//! pieces are one forward pass, so that every cut sees the same dropped units.

use std::collections::HashSet;

use atbptt_core::direct::check_cuts;
use atbptt_core::{DirectStatistics, EstimateError};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};

use crate::ModelError;
use crate::batch::SequenceBatch;
use crate::probe::autodiff_device;
use crate::recurrent::RecurrentModel;
use crate::state::RecurrentState;

/// Largest parameter that counts where a model does not say which do, in values.
const MAX_VALUES: usize = 1 << 22;

/// Rows of weight matrices whose products are summed at once: bounds the copy that a product needs.
const ROWS_AT_ONCE: usize = 64;

/// How a probe cuts its window, and which gradients it keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectPlan {
    /// m, the steps at the window's end that carry a loss, at least 1.
    pub losses: usize,
    /// The cuts c, ascending from 0, below W, in steps before the first loss.
    pub contexts: Vec<usize>,
    /// Whose bias is measured.
    pub weights: CountedWeights,
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
            weights: CountedWeights::Recurrent,
            max_rows: 256,
        }
    }

    /// Sets [`DirectPlan::weights`].
    pub fn with_weights(mut self, weights: CountedWeights) -> Self {
        self.weights = weights;
        self
    }

    /// Sets [`DirectPlan::max_rows`].
    pub fn with_max_rows(mut self, max_rows: usize) -> Self {
        self.max_rows = max_rows;
        self
    }
}

/// Which weights a direct estimate is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CountedWeights {
    /// Those that [`RecurrentModel::counted_parameters`] names.
    #[default]
    Recurrent,
    /// All that are trained, embeddings and decoders too; a copy of each per piece must fit into memory.
    All,
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
    let counted = Counted::of(model, plan.weights);
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
    let decoder = match plan.weights {
        CountedWeights::All => copies.first().unwrap_or(&frozen),
        CountedWeights::Recurrent => &frozen,
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
/// Products of rows are taken on the device and summed over rows here, in f64. Probes are taken in the order given, so that
/// workers may bring theirs together.
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
        let of_all = || {
            let parts = probes.iter().filter_map(|p| p.parameters.get(index));
            parts.map(|part| part.gradients.clone())
        };
        let [_, rows, _] = parameter.gradients.dims();
        for start in (0..rows).step_by(ROWS_AT_ONCE) {
            let block = ROWS_AT_ONCE.min(rows - start);
            let device = parameter.gradients.device();
            let vectors = of_all().map(|g| g.narrow(1, start, block).to_device(&device));
            // [probe and piece, row, column] to one product per row.
            let vectors = Tensor::cat(vectors.collect(), 0).swap_dims(0, 1);
            let products = vectors.clone().matmul(vectors.swap_dims(1, 2));
            let products = products.try_into_data().map_err(|error| ModelError::Read {
                reason: format!("{error:?}"),
            })?;
            let mut products = products.iter::<f64>();
            for _ in 0..block {
                for (sum, product) in gram.iter_mut().zip(products.by_ref()) {
                    *sum += parameter.rows_per_kept * product;
                }
            }
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

/// A copy of a module whose named parameters are leaves of their own, all others constants.
struct Copy<'a>(&'a HashSet<ParamId>);

impl ModuleMapper for Copy<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        // Detaching makes a leaf, but one that still wants its gradient where the original did.
        let value = value.detach().set_require_grad(self.0.contains(&id));
        Param::from_mapped_value(id, value, mapper)
    }
}

/// The parameters that count, and whether the model named them.
struct Counted {
    ids: HashSet<ParamId>,
    named: bool,
}

impl Counted {
    fn of<M: RecurrentModel>(model: &M, weights: CountedWeights) -> Self {
        struct Trained {
            max_values: usize,
            ids: HashSet<ParamId>,
        }
        impl ModuleVisitor for Trained {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let value = param.val();
                let values: usize = value.dims().iter().product();
                if value.is_autodiff() && value.is_require_grad() && values <= self.max_values {
                    self.ids.insert(param.id);
                }
            }
        }
        let named = match weights {
            CountedWeights::Recurrent => model.counted_parameters(),
            CountedWeights::All => None,
        };
        let mut trained = Trained {
            max_values: match (weights, &named) {
                (CountedWeights::Recurrent, None) => MAX_VALUES,
                _ => usize::MAX,
            },
            ids: HashSet::new(),
        };
        model.visit(&mut trained);
        match named {
            Some(named) => Self {
                ids: named
                    .into_iter()
                    .filter(|id| trained.ids.contains(id))
                    .collect(),
                named: true,
            },
            None => Self {
                ids: trained.ids,
                named: false,
            },
        }
    }

    /// The gradients of a copy as matrices, in visiting order: a vector is one row.
    fn take<M: Module>(
        &self,
        copy: &M,
        grads: &mut Gradients,
    ) -> Vec<(ParamId, Option<Tensor<2>>)> {
        struct Take<'a> {
            ids: &'a HashSet<ParamId>,
            grads: &'a mut Gradients,
            all: Vec<(ParamId, Option<Tensor<2>>)>,
        }
        impl ModuleVisitor for Take<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if !self.ids.contains(&param.id) {
                    return;
                }
                let grad = param.val().grad_remove(self.grads).map(|grad| {
                    let dims = grad.dims();
                    let rows = match D {
                        0 | 1 => 1,
                        _ => dims.first().map_or(1, |rows| *rows),
                    };
                    let values: usize = dims.iter().product();
                    grad.reshape([rows, values / rows.max(1)])
                });
                self.all.push((param.id, grad));
            }
        }
        let mut take = Take {
            ids: &self.ids,
            grads,
            all: Vec::new(),
        };
        copy.visit(&mut take);
        take.all
    }

    /// Per parameter the pieces' gradients, of the rows that are kept. Parameters without any gradient are left out, or, where
    /// the model has named them, refused.
    fn stack(
        &self,
        pieces: Vec<Vec<(ParamId, Option<Tensor<2>>)>>,
        max_rows: usize,
    ) -> Result<Vec<ParameterPieces>, ModelError> {
        let parameters = pieces.first().map_or(0, Vec::len);
        let of = |index: usize| pieces.iter().filter_map(move |piece| piece.get(index));
        // One gradient of each parameter that has any, for its shape.
        let shapes: Vec<(usize, ParamId, Tensor<2>)> = (0..parameters)
            .filter_map(|index| {
                let (id, grad) = of(index).find_map(|(id, grad)| grad.clone().map(|g| (*id, g)))?;
                Some((index, id, grad))
            })
            .collect();
        if self.named && shapes.len() < parameters {
            return Err(ModelError::NoGradient {
                missing: parameters - shapes.len(),
                counted: parameters,
            });
        }
        let all_rows: usize = shapes.iter().map(|(_, _, grad)| grad.dims()[0]).sum();
        let stack = shapes.into_iter().map(|(index, id, like)| {
            let [rows, columns] = like.dims();
            let kept = match all_rows > max_rows {
                true => {
                    let share = max_rows as f64 / all_rows as f64;
                    ((rows as f64 * share).round() as usize).clamp(1, rows)
                }
                false => rows,
            };
            let chosen = (kept < rows).then(|| {
                let chosen = choose(rows, kept, index as u64);
                Tensor::<1, Int>::from_data(TensorData::new(chosen, [kept]), &like.device())
            });
            let gradients = of(index).map(|(_, grad)| {
                let grad = grad.clone().unwrap_or_else(|| like.zeros_like());
                let grad = match &chosen {
                    Some(chosen) => grad.select(0, chosen.clone()),
                    None => grad,
                };
                grad.reshape([1, kept, columns])
            });
            ParameterPieces {
                id,
                gradients: Tensor::cat(gradients.collect(), 0),
                rows_per_kept: rows as f64 / kept as f64,
            }
        });
        Ok(stack.collect())
    }
}

/// `kept` of `rows` indices, ascending: the same for every probe, drawn by a generator seeded with the parameter's place
/// (selection sampling, Knuth 1997, volume 2, algorithm S; SplitMix64).
fn choose(rows: usize, kept: usize, place: u64) -> Vec<i64> {
    let mut state = 0x6469_7265_6374 ^ place;
    let mut chosen = Vec::with_capacity(kept);
    for row in 0..rows {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let draw = ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
        if draw * ((rows - row) as f64) < (kept - chosen.len()) as f64 {
            chosen.push(row as i64);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_rows_are_as_many_as_asked_for_and_spread() {
        for (rows, kept) in [(900, 128), (10, 1), (10, 10), (7, 6)] {
            let chosen = choose(rows, kept, 3);
            assert_eq!(chosen.len(), kept);
            assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(chosen.iter().all(|row| (0..rows as i64).contains(row)));
            assert_eq!(chosen, choose(rows, kept, 3));
        }
        let chosen = choose(900, 128, 0);
        let low = chosen.iter().filter(|row| **row < 450).count();
        assert!((40..=88).contains(&low), "{low} of 128 in the lower half");
        assert_ne!(chosen, choose(900, 128, 1));
    }
}

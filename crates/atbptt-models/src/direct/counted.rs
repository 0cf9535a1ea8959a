//! The weights that count: found in a model, copied piece by piece, and of their gradients the rows that are kept.

use std::collections::HashSet;

use atbptt_core::seed::{GAMMA, scramble};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Gradients, Int, Tensor, TensorData};

use crate::ModelError;
use crate::recurrent::RecurrentModel;

use super::ParameterPieces;

/// Largest parameter that counts where a model does not say which do, in values.
const MAX_VALUES: usize = 1 << 22;

/// A copy of a module whose named parameters are leaves of their own, all others constants.
pub(super) struct Copy<'a>(pub(super) &'a HashSet<ParamId>);

impl ModuleMapper for Copy<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        // Detaching makes a leaf, but one that still wants its gradient where the original did.
        let value = value.detach().set_require_grad(self.0.contains(&id));
        Param::from_mapped_value(id, value, mapper)
    }
}

/// The parameters that count, and whether the model named them.
pub(super) struct Counted {
    pub(super) ids: HashSet<ParamId>,
    named: bool,
}

impl Counted {
    pub(super) fn of<M: RecurrentModel>(model: &M, all_weights: bool) -> Self {
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
        let named = match all_weights {
            true => None,
            false => model.counted_parameters(),
        };
        let mut trained = Trained {
            max_values: match (all_weights, &named) {
                (false, None) => MAX_VALUES,
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
    pub(super) fn take<M: Module>(
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
    pub(super) fn stack(
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
        state = state.wrapping_add(GAMMA);
        let draw = (scramble(state) >> 11) as f64 / (1u64 << 53) as f64;
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

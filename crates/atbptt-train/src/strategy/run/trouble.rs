//! Values that are not finite: kept from the weights, and what the run does about them.

use atbptt_models::{RecurrentModel, RecurrentState};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

use super::{Run, Source};
use crate::TrainError;
use crate::checkpoint::Checkpoint;
use crate::cursor::WindowSpan;
use crate::step::Update;
use crate::strategy::OnNonFinite;

/// Restarts from one checkpoint before the run gives up: the step size is then a thousandth.
const MAX_RESTORES: u32 = 10;

/// A step this long, or a gradient this large, may overflow a weight or a moment in 32 bits; below, nothing can.
const SAFE: f64 = 1e15;

/// A value that is not finite.
#[derive(Clone, Copy, Debug)]
pub(super) struct NonFinite {
    pub what: &'static str,
    pub value: f64,
}

impl NonFinite {
    pub(super) fn find(loss: f64, norm: f64) -> Option<Self> {
        [("loss", loss), ("gradient norm", norm)]
            .into_iter()
            .find(|(_, value)| !value.is_finite())
            .map(|(what, value)| Self { what, value })
    }

    /// A weight became something that is not finite.
    pub(super) fn weights() -> Self {
        Self {
            what: "weights",
            value: f64::NAN,
        }
    }
}

impl<M: RecurrentModel> Run<'_, M> {
    /// An update; `false` when it would have brought a value into the weights that is not finite. Learner and weights are then
    /// those before it.
    pub(super) fn update(&mut self, update: Update) -> bool {
        let Update {
            grads,
            factor,
            norm,
        } = update;
        self.learner.model().step_scale().set(factor);
        self.learner.lr_step();
        self.updates += 1;
        let reach = self.learner.lr_current().base() * factor * norm.max(1.0);
        let before = (!(reach.abs() < SAFE && norm < SAFE)).then(|| self.learner.clone());
        self.learner.optimizer_step(grads);
        match before {
            Some(before) if !all_finite(&self.learner.model()) => {
                self.learner = before;
                false
            }
            _ => true,
        }
    }

    /// Acts on a value that is not finite, by the strategy's choice. On return the run goes on from its cursor.
    pub(super) fn handle_non_finite(
        &mut self,
        found: NonFinite,
        epoch: usize,
        k: usize,
        span: &WindowSpan,
        source: &Source<M>,
    ) -> Result<(), TrainError> {
        let error = self.non_finite(found, epoch, k);
        log::warn!("{error}");
        match self.strategy.on_non_finite {
            OnNonFinite::Stop => Err(error),
            OnNonFinite::Skip => {
                self.sums.skipped += 1;
                self.step += 1;
                self.cursor = span.next;
                // A state that is not finite would spoil every window after this one.
                let usable = |states: &Vec<M::State>| {
                    let mut parts = states.iter().flat_map(M::State::parts);
                    parts.all(is_finite)
                };
                self.state = self.state.take().filter(usable);
                Ok(())
            }
            OnNonFinite::Restore => {
                let Some(path) = self.last_checkpoint.clone() else {
                    return Err(error);
                };
                if self.restores == MAX_RESTORES {
                    return Err(error);
                }
                let (restores, restored, shrink) = (self.restores, self.sums.restored, self.shrink);
                // An epoch's end is a checkpoint too, so this leads back into the same epoch.
                self.take_over(&Checkpoint::open(path)?, source)?;
                self.restores = restores + 1;
                self.sums.restored = restored + 1;
                self.shrink = shrink / 2.0;
                log::warn!(
                    "back to the checkpoint after {} windows, step size times {}",
                    self.step,
                    self.shrink
                );
                Ok(())
            }
        }
    }

    /// The error of a value that is not finite.
    pub(super) fn non_finite(&self, found: NonFinite, epoch: usize, k: usize) -> TrainError {
        TrainError::NonFinite {
            what: found.what,
            value: found.value,
            epoch,
            step: self.step,
            k,
            checkpoint: self.good_checkpoint(),
        }
    }

    /// Which checkpoint to go on from, as a clause; empty before the first.
    pub(super) fn good_checkpoint(&self) -> String {
        match &self.last_checkpoint {
            Some(path) => format!(", and {} is there to go on from", path.display()),
            None => String::new(),
        }
    }

    /// Refuses weights that are not finite, before they take a good checkpoint's place.
    pub(super) fn check_weights(&self, epoch: usize) -> Result<(), TrainError> {
        if all_finite(&self.learner.model()) {
            return Ok(());
        }
        let found = NonFinite::weights();
        let k = super::lock(&self.strategy.shared.policy).k();
        Err(self.non_finite(found, epoch, k))
    }
}

fn is_finite<const D: usize>(tensor: Tensor<D>) -> bool {
    let data = tensor.try_into_data();
    data.is_ok_and(|data| data.iter::<f64>().all(f64::is_finite))
}

fn all_finite<M: Module>(module: &M) -> bool {
    struct Check(bool);
    impl ModuleVisitor for Check {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 = self.0 && is_finite(param.val());
        }
    }
    let mut check = Check(true);
    module.visit(&mut check);
    check.0
}

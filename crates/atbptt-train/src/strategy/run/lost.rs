//! Devices of other processes, whose servers may be gone at any time.
//!
//! What fails then is whatever is asked of the device next: a window, a checkpoint, a check of the weights, which take what they
//! could not read for a fault of their own, or panic. So the server is asked once more before an error is told.

use atbptt_models::RecurrentModel;
use burn::train::{TrainLoader, ValidLoader};

use super::Run;
use crate::TrainError;
use crate::device::Watch;
use crate::learner::Tbptt;
use crate::panics;

impl<M: RecurrentModel> Run<'_, M> {
    /// All epochs, the servers watched meanwhile.
    pub(super) fn train_on_servers(
        &mut self,
        train: TrainLoader<Tbptt<M>>,
        valid: ValidLoader<Tbptt<M>>,
        starting_epoch: usize,
    ) -> Result<(), TrainError> {
        let watch = Watch::over(&self.named);
        let ended = panics::caught(|| self.train(train, valid, starting_epoch));
        ended
            .unwrap_or_else(|reason| {
                Err(TrainError::Read {
                    reason: reason.lines().next().unwrap_or_default().into(),
                })
            })
            .map_err(|error| self.for_lost_server(error, &watch))
    }

    /// `error`, or that a server no longer answers.
    fn for_lost_server(&self, error: TrainError, watch: &Watch) -> TrainError {
        log::error!("{error}");
        let lost = self.named.iter().find_map(|device| {
            let reason = watch.lost(device).or_else(|| device.lost())?;
            Some((device, reason))
        });
        match lost {
            Some((device, reason)) => TrainError::Server {
                device: device.to_string(),
                reason,
                checkpoint: self.good_checkpoint(),
            },
            None => error,
        }
    }
}

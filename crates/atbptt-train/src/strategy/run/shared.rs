//! Probes on several devices: shared out whole, and brought together in the order of their seeds.

use atbptt_core::LagNorms;
use atbptt_models::{PieceGradients, RecurrentModel};

use super::{Run, Source};
use crate::TrainError;
use crate::distinct::DistinctWindows;
use crate::workers::{ProbeKind, Probed};

impl<M: RecurrentModel> Run<'_, M> {
    /// What direct probes of `seeds` measured, their gradients brought to the coordinator: all pairs of them count, as on one
    /// device.
    ///
    /// - `windows`: those that no two probes share, where there are such, and the index of the first of these probes
    pub(super) fn share_direct(
        &mut self,
        seeds: &[u64],
        windows: Option<(DistinctWindows, usize)>,
        source: &Source<M>,
    ) -> Result<Vec<PieceGradients>, TrainError> {
        let config = &self.strategy.config;
        let kind = ProbeKind::Direct {
            config: config.probe.clone(),
            plan: config.probe.direct_plan(config.scheme),
            windows,
        };
        let mut pieces = Vec::with_capacity(seeds.len());
        for probed in self.share_probes(kind, seeds, source)? {
            if let Probed::Direct(gradients) = probed? {
                pieces.push(gradients);
            }
        }
        Ok(pieces)
    }

    /// What probes of lag norms of `seeds` measured, each with a result of its own.
    pub(super) fn share_norms(
        &mut self,
        seeds: &[u64],
        source: &Source<M>,
    ) -> Result<Vec<Result<LagNorms, TrainError>>, TrainError> {
        let kind = ProbeKind::Norms(self.strategy.config.probe.clone());
        let probed = self.share_probes(kind, seeds, source)?;
        let norms = probed.into_iter().filter_map(|probed| match probed {
            Ok(Probed::Norms(norms)) => Some(Ok(norms)),
            Ok(Probed::Direct(_)) => None,
            Err(error) => Some(Err(error)),
        });
        Ok(norms.collect())
    }

    fn share_probes(
        &mut self,
        kind: ProbeKind,
        seeds: &[u64],
        source: &Source<M>,
    ) -> Result<Vec<Result<Probed, TrainError>>, TrainError> {
        let model = self.learner.model();
        let Some(workers) = &mut self.workers else {
            return Ok(Vec::new());
        };
        let probed = workers.probes(&model, source, kind, seeds, &self.device);
        probed.map_err(|error| self.with_checkpoint(error))
    }

    /// Names the checkpoint to go on from in the error of a worker.
    pub(super) fn with_checkpoint(&self, error: TrainError) -> TrainError {
        match error {
            TrainError::Worker {
                worker,
                workers,
                device,
                reason,
                ..
            } => TrainError::Worker {
                worker,
                workers,
                device,
                reason,
                checkpoint: self.good_checkpoint(),
            },
            other => other,
        }
    }
}

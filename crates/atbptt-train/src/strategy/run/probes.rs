//! Probes between windows: when the policy wants them, what they measure, and what it decides.

use std::sync::Arc;
use std::time::Instant;

use atbptt_core::policy::{Measurement, Position, ProbeRequest};
use atbptt_core::{DirectStatistics, EstimateError, LagNorms};
use atbptt_models::{PieceGradients, RecurrentModel, direct_statistics};

use crate::TrainError;
use crate::distinct::DistinctWindows;
use crate::probe::{direct_probe_at, probe};
use crate::source::Past;
use crate::strategy::lock;

use super::{Draw, Run, Source, mix};

impl<M: RecurrentModel> Run<'_, M> {
    /// Runs the probes that are due and lets the policy decide.
    pub(super) fn run_probes(
        &mut self,
        epoch: usize,
        source: &Source<M>,
    ) -> Result<(), TrainError> {
        let at = Position {
            epoch: epoch - 1,
            update: self.updates,
        };
        let (due, k) = {
            let policy = lock(&self.strategy.shared.policy);
            (policy.monitor().probes_due(at), policy.k())
        };
        let Some(due) = due else {
            return Ok(());
        };
        let started = Instant::now();
        let scheme = self.strategy.config.scheme;
        let updates_per_epoch = self.updates_per_epoch(k, source.common_steps());
        let probe = &self.strategy.config.probe;
        let past: Source<M>;
        let source = match probe.past_only && epoch == 1 {
            true => {
                past = Arc::new(Past::new(source.clone(), self.cursor.next_loss));
                // Probes that do not fit yet wait until they do.
                if probe.direct_steps(scheme) > past.common_steps() {
                    return Ok(());
                }
                &past
            }
            false => source,
        };
        let measured = match due {
            ProbeRequest::Direct { probes } => {
                self.direct_probes(probes, (k, updates_per_epoch), source)?
            }
            ProbeRequest::Norms { probes } => Measurement::Norms {
                probes: self.lag_norms(probes, k, source)?,
                scheme,
            },
            other => {
                return Err(TrainError::Config {
                    field: "estimator",
                    rule: "one whose probes the training strategy can run",
                    got: format!("{other:?}"),
                    remedy: "choose `Estimator::Direct` or `Estimator::Norms`",
                });
            }
        };
        let mut policy = lock(&self.strategy.shared.policy);
        let decision = policy.update(at, measured);
        log::info!("{decision}");
        if let Some(observer) = &self.strategy.observer {
            observer.on_decision(&decision, policy.monitor().last_estimate());
        }
        drop(policy);
        let seconds = started.elapsed().as_secs_f64();
        self.sums.probe_seconds += seconds;
        self.seconds += seconds;
        self.tell_of_workers();
        Ok(())
    }

    /// Updates of the weights in an epoch at truncation length `k`.
    fn updates_per_epoch(&self, k: usize, steps: usize) -> f64 {
        let losses = self.strategy.config.scheme.losses(k).max(1);
        let windows = self.parts.grad_accumulation.unwrap_or(1).max(1);
        (steps as f64 / losses as f64 / windows as f64).max(1.0)
    }

    /// Seed of probe `index` before the next update: each has its own, so that any worker may run it.
    fn probe_seed(&self, index: usize) -> u64 {
        mix(
            self.strategy.config.seed,
            self.step,
            Draw::Probe(index as u64),
        )
    }

    /// What `first` direct probes measured, and as many more as the policy finds that it needs, up to what its monitor allows:
    /// a policy that always asks for more would train no further.
    fn direct_probes(
        &mut self,
        first: usize,
        (k, updates_per_epoch): (usize, f64),
        source: &Source<M>,
    ) -> Result<Measurement, TrainError> {
        let windows = self.distinct_windows(k, source)?;
        let all = windows.map_or(usize::MAX, DistinctWindows::count);
        let (mut pieces, mut more) = (Vec::new(), first.min(all));
        let mut before = None;
        loop {
            let statistics = self.with_more_pieces(&mut pieces, (more, windows), k, source)?;
            let measured = Measurement::Direct {
                scheme: self.strategy.config.scheme,
                updates_per_epoch,
                statistics: match (statistics, before) {
                    // Further probes that are of no use leave those before them as they are.
                    (Err(_), Some(before)) => return Ok(before),
                    (statistics, _) => statistics,
                },
            };
            let (asked, allowed) = {
                let policy = lock(&self.strategy.shared.policy);
                let max = policy.monitor().config().map_or(0, |c| c.max_probes);
                (
                    policy.more_probes(&measured),
                    max.min(all).saturating_sub(pieces.len()),
                )
            };
            more = asked.min(allowed);
            if more == 0 {
                if asked > 0 {
                    log::warn!(
                        "the policy asks for {asked} probes more than the {} that `max_probes` or the stream's windows allow; it decides by these",
                        pieces.len()
                    );
                }
                return Ok(measured);
            }
            before = Some(measured);
        }
    }

    /// The windows of an estimate that no two of its probes share, where the stream has few.
    fn distinct_windows(
        &self,
        k: usize,
        source: &Source<M>,
    ) -> Result<Option<DistinctWindows>, TrainError> {
        let config = &self.strategy.config;
        let steps = config.probe.direct_steps(config.scheme);
        let lengths = (steps, config.probe.losses_for(config.scheme));
        let seed = mix(config.seed, self.step, Draw::Windows);
        let model = self.learner.model().into_inner();
        let windows = DistinctWindows::of(&model, source.as_ref(), lengths, seed, &self.device);
        windows.map_err(|error| error.in_window("probe", steps, source.sequences(), k))
    }

    /// Runs `count` more direct probes; what all together measured, or why it is of no use.
    fn with_more_pieces(
        &mut self,
        pieces: &mut Vec<PieceGradients>,
        (count, windows): (usize, Option<DistinctWindows>),
        k: usize,
        source: &Source<M>,
    ) -> Result<Result<DirectStatistics, EstimateError>, TrainError> {
        let config = &self.strategy.config;
        let first = pieces.len();
        let indices = first..first.saturating_add(count);
        let seeds: Vec<u64> = indices.map(|index| self.probe_seed(index)).collect();
        let (probe, scheme) = (config.probe.clone(), config.scheme);
        let steps = probe.direct_steps(scheme);
        let probed = match &self.workers {
            Some(_) => self.share_direct(&seeds, windows.map(|windows| (windows, first)), source),
            None => {
                let model = self.learner.model().into_inner();
                let plan = probe.direct_plan(scheme);
                let probed = seeds.iter().zip(first..).map(|(seed, index)| {
                    let draw = (*seed, windows.map(|windows| (windows, index)));
                    direct_probe_at(&model, source.as_ref(), &probe, &plan, draw, &self.device)
                });
                probed.collect::<Result<Vec<_>, _>>()
            }
        };
        let statistics = probed.and_then(|probed| {
            pieces.extend(probed);
            let statistics = direct_statistics(pieces)?;
            Ok(match windows {
                Some(windows) => statistics.out_of(windows.count())?,
                None => statistics,
            })
        });
        let failed = |error: TrainError| error.in_window("probe", steps, source.sequences(), k);
        match statistics.map_err(failed) {
            Ok(statistics) => Ok(Ok(statistics)),
            Err(TrainError::Model(atbptt_models::ModelError::Estimate(error))) => {
                log::warn!(
                    "the probes after {} updates are not usable: {error}",
                    self.updates
                );
                Ok(Err(error))
            }
            Err(error) => Err(error),
        }
    }

    /// What `count` probes of lag norms measured, each with a result of its own.
    fn lag_norms(
        &mut self,
        count: usize,
        k: usize,
        source: &Source<M>,
    ) -> Result<Vec<Result<LagNorms, EstimateError>>, TrainError> {
        let config = &self.strategy.config;
        let seeds: Vec<u64> = (0..count).map(|index| self.probe_seed(index)).collect();
        let all = match &self.workers {
            Some(_) => self.share_norms(&seeds, source)?,
            None => {
                let model = self.learner.model().into_inner();
                let probe = |&seed: &u64| {
                    self.device.seed(seed);
                    let length = config.probe.clone();
                    probe(&model, source.as_ref(), length, seed, &self.device)
                };
                seeds.iter().map(probe).collect()
            }
        };
        let mut probes = Vec::with_capacity(count);
        for (index, probed) in all.into_iter().enumerate() {
            let (steps, batch) = (config.probe.steps(), source.sequences());
            match probed.map_err(|error| error.in_window("probe", steps, batch, k)) {
                Ok(norms) => probes.push(Ok(norms)),
                Err(TrainError::Model(atbptt_models::ModelError::Estimate(error))) => {
                    log::warn!(
                        "probe {index} after {} updates is not usable: {error}",
                        self.updates
                    );
                    probes.push(Err(error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(probes)
    }
}

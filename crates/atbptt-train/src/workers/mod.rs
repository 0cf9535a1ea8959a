//! Several devices: each works on sequences of its own, and the coordinator makes one gradient of theirs.
//!
//! Place in the flow: [`AdaptiveTbptt::on_devices`](crate::AdaptiveTbptt::on_devices) gives the devices, Burn's
//! `MultiDevicesTrainStep` runs a thread for each. Per window, every worker reads the same steps of its sequences, runs them from
//! the state that it carried there, and gives loss and gradient of the mean loss; the coordinator scales the gradients by the
//! workers' shares of the losses, moves them to its own device and adds them up, in the order of the workers, whichever comes
//! first. Everything after that happens once: clipping, finite checks, the update, metrics, checkpoints, the policy for K.
//!
//! Probes are shared out whole, and their results brought together in the order of their seeds.

mod shards;
mod task;

use std::ops::Range;
use std::sync::Arc;

use atbptt_models::ops::SharedDraws;
use atbptt_models::{RecurrentModel, RecurrentState, StepLoss, WindowLoss};
use burn::data::dataloader::{DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Device;
use burn::train::TrainOutput;
use burn::train::train::{MultiDeviceStepError, MultiDevicesTrainStep};

use self::task::{Done, Given, Shard, Work, task};
use crate::TrainError;
use crate::device::NamedDevice;
use crate::learner::{Task, Tbptt, TbpttInput};
use crate::output::TbpttOutput;
use crate::source::SequenceSource;
use crate::step;

pub(crate) use shards::check_shared;
pub use shards::{WorkerReport, shards};
pub(crate) use task::{ProbeKind, Probed, Span};

type Source<M> = Arc<dyn SequenceSource<Batch = <M as RecurrentModel>::Batch>>;

/// Yields one task, or none.
struct OneTask<M: RecurrentModel>(Option<Task<M>>);

impl<M: RecurrentModel> Iterator for OneTask<M> {
    type Item = Result<TbpttInput<M>, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(|task| Ok(TbpttInput::Task(task)))
    }
}

impl<M: RecurrentModel> DataLoaderIterator<TbpttInput<M>> for OneTask<M> {
    fn progress(&self) -> Progress {
        Progress::new(usize::from(self.0.is_none()), 1, None)
    }
}

/// The workers of a run on two devices or more, or on devices of other processes.
pub(crate) struct Workers<M: RecurrentModel> {
    step: MultiDevicesTrainStep<Tbptt<M>>,
    devices: Vec<Device>,
    names: Vec<String>,
    rows: Vec<Range<usize>>,
    /// The parts of the source that is being read.
    shards: Vec<Source<M>>,
    busy_seconds: Vec<f64>,
}

/// What all workers gave for one window.
pub(crate) struct Gathered<M: RecurrentModel> {
    /// Over the losses of all, on the coordinator's device.
    pub loss: StepLoss,
    /// Of the mean loss, on the coordinator's device.
    pub grads: GradientsParams,
    /// Per worker, on its device.
    pub states: Option<Vec<M::State>>,
}

impl<M: RecurrentModel> Workers<M> {
    /// A thread for each of `devices`, which are checked, to share `sequences` sequences.
    pub(crate) fn new(named: &[NamedDevice], sequences: usize) -> Result<Self, TrainError> {
        let rows = shards(sequences, named.len())?;
        let devices = named.iter().map(|named| named.device.clone().autodiff());
        let devices: Vec<Device> = devices.collect();
        Ok(Self {
            step: MultiDevicesTrainStep::new(&devices),
            busy_seconds: vec![0.0; devices.len()],
            names: named.iter().map(ToString::to_string).collect(),
            devices,
            rows,
            shards: Vec::new(),
        })
    }

    /// Shares `source` out.
    pub(crate) fn share_out(&mut self, source: &Source<M>) -> Result<(), TrainError> {
        let shard = |rows: &Range<usize>| {
            if rows.len() == source.sequences() {
                return Ok(source.clone());
            }
            let shard = source.shard(rows.clone());
            shard.ok_or(TrainError::NotShared {
                devices: self.devices.len(),
            })
        };
        self.shards = self.rows.iter().map(shard).collect::<Result<_, _>>()?;
        Ok(())
    }

    pub(crate) fn count(&self) -> usize {
        self.devices.len()
    }

    /// What each does, `total_seconds` after the start.
    pub(crate) fn reports(&self, total_seconds: f64) -> Vec<WorkerReport> {
        let workers = self.names.iter().zip(&self.rows).zip(&self.busy_seconds);
        let report = |((name, rows), busy): ((&String, &Range<usize>), &f64)| WorkerReport {
            device: name.clone(),
            sequences: rows.clone(),
            busy_seconds: *busy,
            total_seconds,
        };
        workers.map(report).collect()
    }

    /// The state of a whole batch, each worker's part on its device.
    pub(crate) fn split(&self, state: M::State) -> Vec<M::State> {
        let part = |(rows, device): (&Range<usize>, &Device)| {
            let rows = rows.clone();
            state
                .clone()
                .map_parts(&mut |part| part.narrow(0, rows.start, rows.len()).to_device(device))
        };
        self.rows.iter().zip(&self.devices).map(part).collect()
    }

    /// Seeds what models of one's own may draw from.
    pub(crate) fn seed(&self, seed: u64) {
        self.devices.iter().for_each(|device| device.seed(seed));
    }

    /// Runs one window on all workers; `main` is the coordinator's device.
    pub(crate) fn window(
        &mut self,
        model: &Tbptt<M>,
        span: Span,
        states: Option<Vec<M::State>>,
        main: &Device,
    ) -> Result<(TbpttOutput<M>, Gathered<M>), TrainError> {
        self.seed(span.seed);
        let draws = SharedDraws::new(span.seed);
        let batch = self.rows.last().map_or(0, |rows| rows.end);
        let mut states = states.map(Vec::into_iter);
        let tasks = self.shards.iter().zip(&self.rows).map(|(source, rows)| {
            Some(Work::Window {
                span: span.clone(),
                shard: Shard {
                    source: source.clone(),
                    rows: rows.clone(),
                    batch,
                    draws: draws.clone(),
                },
                state: states.as_mut().and_then(Iterator::next),
            })
        });
        let tasks = tasks.collect();
        let mut parts = Vec::with_capacity(self.count());
        for (given, grads, output) in self.run(model, tasks)? {
            if let Given::Window(window) = given {
                parts.push((*window, grads, output));
            }
        }
        gather(model, parts, &main.clone().inner())
    }

    /// Runs probes by their `seeds`, shared out over the workers; results in the order of the seeds.
    pub(crate) fn probes(
        &mut self,
        model: &Tbptt<M>,
        source: &Source<M>,
        kind: ProbeKind,
        seeds: &[u64],
        main: &Device,
    ) -> Result<Vec<Result<Probed, TrainError>>, TrainError> {
        let workers = self.count();
        let of = |worker: usize| {
            let seeds = seeds.iter().copied().enumerate();
            let seeds: Vec<_> = seeds.skip(worker).step_by(workers).collect();
            (!seeds.is_empty()).then(|| Work::Probes {
                source: source.clone(),
                kind: kind.clone(),
                seeds,
                to: main.clone().inner(),
            })
        };
        let tasks = (0..workers).map(of).collect();
        let mut probed = Vec::with_capacity(seeds.len());
        for (given, ..) in self.run(model, tasks)? {
            if let Given::Probes(of_worker) = given {
                probed.extend(of_worker);
            }
        }
        probed.sort_by_key(|(index, _)| *index);
        Ok(probed.into_iter().map(|(_, result)| result).collect())
    }

    /// Gives each worker its task and waits for all; results in the order of the workers, whichever came first.
    #[allow(clippy::type_complexity)] // Taken apart at once.
    fn run(
        &mut self,
        model: &Tbptt<M>,
        tasks: Vec<Option<Work<M>>>,
    ) -> Result<Vec<(Given<M>, GradientsParams, TbpttOutput<M>)>, TrainError> {
        let tasks = tasks.into_iter().zip(&self.devices).enumerate();
        let mut tasks: Vec<Box<dyn DataLoaderIterator<TbpttInput<M>>>> = tasks
            .map(|(worker, (work, device))| {
                let device = device.clone();
                Box::new(OneTask(work.map(|work| task(worker, device, work)))) as _
            })
            .collect();
        let (outputs, _) = self
            .step
            .step(&mut tasks, model)
            .map_err(|error| self.failure(error))?;
        let mut done = Vec::with_capacity(outputs.len());
        for output in outputs {
            let TrainOutput { grads, mut item } = output.output;
            if let Some(of_worker) = item.take_done::<Done<M>>() {
                if let Some(busy) = self.busy_seconds.get_mut(of_worker.worker) {
                    *busy += of_worker.seconds;
                }
                done.push((of_worker, grads, item));
            }
        }
        done.sort_by_key(|(of_worker, ..)| of_worker.worker);
        let results = done.into_iter();
        results
            .map(|(of_worker, grads, item)| Ok((of_worker.result?, grads, item)))
            .collect()
    }

    /// Which worker failed, and why.
    fn failure(&self, error: MultiDeviceStepError) -> TrainError {
        let MultiDeviceStepError::Workers(failures) = error else {
            return TrainError::Training {
                reason: error.to_string(),
            };
        };
        let failure = failures.first();
        TrainError::Worker {
            worker: failure.map_or(0, |failure| failure.device_id),
            workers: self.count(),
            device: failure
                .and_then(|failure| self.names.get(failure.device_id))
                .cloned()
                .unwrap_or_default(),
            reason: failure.map_or_else(String::new, |failure| {
                failure.message.lines().next().unwrap_or_default().into()
            }),
            checkpoint: String::new(),
        }
    }
}

/// One loss and one gradient of the workers', in their order.
#[allow(clippy::type_complexity)] // The parts of an output.
fn gather<M: RecurrentModel>(
    model: &Tbptt<M>,
    parts: Vec<(WindowLoss<M::State>, GradientsParams, TbpttOutput<M>)>,
    main: &Device,
) -> Result<(TbpttOutput<M>, Gathered<M>), TrainError> {
    let count: usize = parts.iter().map(|(window, ..)| window.loss.count).sum();
    let mut total = GradientsAccumulator::new();
    let mut sum = None;
    let mut states = Vec::with_capacity(parts.len());
    let mut output: Option<TbpttOutput<M>> = None;
    for (window, grads, part) in parts {
        let share = window.loss.count as f64 / count.max(1) as f64;
        let mut grads = grads.to_device(main, model);
        step::scale(model, &mut grads, share);
        total.accumulate(model, grads);
        let loss = window.loss.sum.to_device(main);
        sum = Some(match sum {
            Some(sum) => sum + loss,
            None => loss,
        });
        states.extend(window.state);
        let part = part.on_device(main);
        output = Some(match output {
            Some(output) => output.followed_by(part),
            None => part,
        });
    }
    let (Some(sum), Some(output)) = (sum, output) else {
        return Err(TrainError::Training {
            reason: "no worker gave a window".into(),
        });
    };
    let gathered = Gathered {
        loss: StepLoss::new(sum, count),
        grads: total.grads(),
        states: (!states.is_empty()).then_some(states),
    };
    Ok((output, gathered))
}

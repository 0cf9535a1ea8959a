//! What a worker does: a window of its sequences, or whole probes.

use std::ops::Range;
use std::time::Instant;

use atbptt_core::LagNorms;
use atbptt_models::ops::{SharedDraws, seed_device};
use atbptt_models::{DirectPlan, PieceGradients, RecurrentModel, WindowLoss, WindowPlan};
use burn::optim::GradientsParams;
use burn::tensor::Device;
use burn::train::{TrainOutput, TrainStep};

use super::Source;
use crate::TrainError;
use crate::distinct::DistinctWindows;
use crate::evaluate::read_scalar;
use crate::learner::{Task, Tbptt, TbpttInput};
use crate::output::TbpttOutput;
use crate::panics;
use crate::probe::{ProbeConfig, direct_probe_at, probe};

/// What a worker is asked to do.
struct Order<M: RecurrentModel> {
    worker: usize,
    device: Device,
    work: Work<M>,
}

/// The same on every worker, but for what belongs to it alone.
#[allow(clippy::large_enum_variant)] // It lives in a box.
pub(super) enum Work<M: RecurrentModel> {
    Window {
        span: Span,
        shard: Shard<M>,
        state: Option<M::State>,
    },
    Probes {
        source: Source<M>,
        kind: ProbeKind,
        /// Index and seed of each.
        seeds: Vec<(usize, u64)>,
        /// Where results are brought together.
        to: Device,
    },
}

/// A window, as all workers run it.
#[derive(Clone)]
pub(crate) struct Span {
    pub start: usize,
    pub len: usize,
    pub plan: WindowPlan,
    pub compensation: Vec<f64>,
    pub seed: u64,
}

/// A worker's sequences.
pub(super) struct Shard<M: RecurrentModel> {
    pub source: Source<M>,
    pub rows: Range<usize>,
    /// Sequences of all workers.
    pub batch: usize,
    pub draws: SharedDraws,
}

/// Which probes.
#[derive(Clone)]
pub(crate) enum ProbeKind {
    Direct {
        config: ProbeConfig,
        plan: DirectPlan,
        /// Windows that no two probes share, and the index of the first probe among them.
        windows: Option<(DistinctWindows, usize)>,
    },
    Norms(ProbeConfig),
}

/// What came of a task.
pub(super) struct Done<M: RecurrentModel> {
    pub worker: usize,
    pub seconds: f64,
    pub result: Result<Given<M>, TrainError>,
}

pub(super) enum Given<M: RecurrentModel> {
    Window(Box<WindowLoss<M::State>>),
    Probes(Vec<(usize, Result<Probed, TrainError>)>),
}

/// What one probe measured.
pub(crate) enum Probed {
    Direct(PieceGradients),
    Norms(LagNorms),
}

/// `work` for `worker` on its `device`, as a worker's loader yields it.
pub(super) fn task<M: RecurrentModel>(worker: usize, device: Device, work: Work<M>) -> Task<M> {
    let order = Order {
        worker,
        device,
        work,
    };
    Task::new(move |model| order.carry_out(model))
}

impl<M: RecurrentModel> Order<M> {
    /// Does it, on a worker's thread and with a copy of the model on the worker's device.
    fn carry_out(self, model: &Tbptt<M>) -> TrainOutput<TbpttOutput<M>> {
        let Self {
            worker,
            device,
            work,
        } = self;
        panics::keep_quiet();
        let started = Instant::now();
        let (result, grads, predictions) = match work {
            Work::Window { span, shard, state } => {
                match run_window(model, span, shard, state, &device) {
                    Ok((window, grads, output)) => (
                        Ok(Given::<M>::Window(Box::new(window))),
                        grads,
                        Some(output),
                    ),
                    Err(error) => (Err(error), GradientsParams::new(), None),
                }
            }
            Work::Probes {
                source,
                kind,
                seeds,
                to,
            } => {
                let probed = |(index, seed): (usize, u64)| {
                    let result = kind.run(model.inner(), &source, (index, seed), &device);
                    (index, result.map(|probed| probed.on_device(&to)))
                };
                let probed = seeds.into_iter().map(probed).collect();
                (Ok(Given::<M>::Probes(probed)), GradientsParams::new(), None)
            }
        };
        let item = TbpttOutput::done(
            Done {
                worker,
                seconds: started.elapsed().as_secs_f64(),
                result,
            },
            predictions,
        );
        TrainOutput { grads, item }
    }
}

/// Loss and gradient of one worker's part of a window, waited for.
#[allow(clippy::type_complexity)] // Taken apart at once.
fn run_window<M: RecurrentModel>(
    model: &Tbptt<M>,
    span: Span,
    shard: Shard<M>,
    state: Option<M::State>,
    device: &Device,
) -> Result<(WindowLoss<M::State>, GradientsParams, TbpttOutput<M>), TrainError> {
    let batch = shard.source.window(span.start, span.len, device)?;
    let input = TbpttInput::Window {
        batch,
        state,
        plan: span.plan,
        compensation: span.compensation,
    };
    let step = || TrainStep::step(model, input);
    let TrainOutput { grads, mut item } = shard.draws.in_shard(shard.rows, shard.batch, step);
    let window = item.take()?;
    // The worker's time is that of the work, and a device that fails is known by its worker.
    read_scalar(window.loss.sum.clone())?;
    Ok((window, grads, item))
}

impl ProbeKind {
    fn run<M: RecurrentModel>(
        &self,
        model: &M,
        source: &Source<M>,
        (index, seed): (usize, u64),
        device: &Device,
    ) -> Result<Probed, TrainError> {
        let sequences = source.sequences();
        // The draws of a whole batch after `device.seed(seed)`, whatever other workers draw meanwhile.
        SharedDraws::new(seed).in_shard(0..sequences, sequences, || match self {
            Self::Direct {
                config,
                plan,
                windows,
            } => {
                let place = windows.map(|(windows, first)| (windows, first + index));
                let (source, draw) = (source.as_ref(), (seed, place));
                let pieces = direct_probe_at(model, source, config, plan, draw, device)?;
                Ok(Probed::Direct(pieces))
            }
            Self::Norms(config) => {
                seed_device(device, seed);
                let norms = probe(model, source.as_ref(), config.clone(), seed, device)?;
                Ok(Probed::Norms(norms))
            }
        })
    }
}

impl Probed {
    fn on_device(self, device: &Device) -> Self {
        match self {
            Self::Direct(pieces) => Self::Direct(pieces.to_device(device)),
            norms => norms,
        }
    }
}

//! What came of it: the river beside both models, and what truncation leaves out of the gradient.

use std::sync::Arc;

use atbptt::core::seed::mix;
use atbptt::models::{LstmLayer, SeriesModel};
use atbptt::prelude::*;
use atbptt::train::data::{Normalisation, PackedSource, SeriesSet};
use atbptt::train::plot::{Line, LinesPanel, lines_figure};
use atbptt::train::run::{Forecast, number};
use atbptt::train::{ForecastErrors, probe_direct};
use burn::module::Module;
use burn::tensor::Device;

use crate::YEARS;
use crate::basin::Basin;
use crate::common::options::Plan;
use crate::common::trained_bias;
use crate::common::{Result, say};

type Model = SeriesModel<LstmLayer>;

/// Test years that the hydrograph shows.
const SHOWN: [u16; 2] = [2003, 2006];
/// Days of a chunk in the question that the program answers: what do chunks without context leave out?
const CHUNK: usize = 16;
/// Probes behind the bias of a chunk after every epoch.
const PROBES: u64 = 10;

/// The river, and what brings it into the model's units.
#[derive(Clone)]
pub struct Flows {
    basin: Arc<Basin>,
    scale: Normalisation,
    warm_up: usize,
}

impl Flows {
    pub fn new(basin: Basin, scale: Normalisation, warm_up: usize) -> Self {
        Self {
            basin: Arc::new(basin),
            scale,
            warm_up,
        }
    }

    pub fn title(&self) -> String {
        format!("daily flow of basin {}", self.basin.name)
    }

    /// Flow on the days of a part in mm/day, from the weather alone.
    fn simulate(&self, model: &Model, part: usize) -> std::result::Result<Vec<f32>, TrainError> {
        let days = self.basin.days(YEARS[part].clone());
        let series = self.basin.series(days.clone(), self.warm_up)?;
        let mut forecast = Forecast::new(model.clone(), self.scale.clone())?;
        let flow = forecast.predict(series.inputs())?.mean;
        Ok(flow[flow.len() - days.len()..].to_vec())
    }

    fn errors(&self, flow: &[f32], part: usize) -> std::result::Result<ForecastErrors, TrainError> {
        let days = self.basin.days(YEARS[part].clone());
        Ok(ForecastErrors::of(flow, self.basin.flow(days), 1)?)
    }

    /// Errors on the years that the model is not trained on.
    pub fn measures(
        &self,
        model: &Model,
    ) -> std::result::Result<[(&'static str, f64); 3], TrainError> {
        let [valid, test] = [1, 2].map(|part| self.errors(&self.simulate(model, part)?, part));
        let (valid, test) = (valid?, test?);
        Ok([
            ("valid_nse", valid.nash_sutcliffe()),
            ("test_nse", test.nash_sutcliffe()),
            ("test_rmse", test.root_mean_square()),
        ])
    }

    /// The operational model's efficiency on the test years.
    pub fn operational_nse(&self) -> f64 {
        let days = self.basin.days(YEARS[2].clone());
        let errors = self.errors(self.basin.operational(days), 2);
        errors.map_or(f64::NAN, |errors| errors.nash_sutcliffe())
    }

    /// Writes `flow.csv`, all test days, and draws some of their years as `hydrograph.png`.
    pub fn write(&self, model: &Model, folder: &RunFolder) -> Result<()> {
        let test = self.basin.days(YEARS[2].clone());
        let simulated = self.simulate(model, 2)?;
        let rows = [
            self.basin.flow(test.clone()),
            &simulated,
            self.basin.operational(test.clone()),
        ];
        let mut table = csv::Writer::from_writer(Vec::new());
        table.write_record(["date", "observed", "simulated", "operational"])?;
        for (nth, day) in test.clone().enumerate() {
            let cells = rows.map(|row| Some(row[nth].into()).filter(|flow: &f64| flow.is_finite()));
            let cells = cells.map(|flow| flow.map_or_else(String::new, |flow| flow.to_string()));
            table.write_record([&[self.basin.date(day)][..], &cells].concat())?;
        }
        folder.write("flow.csv", table.into_inner()?)?;

        let names = ["observed", "this model", "operational model (SAC-SMA)"];
        let panels = SHOWN.map(|year| {
            let days = self.basin.days(year..year + 1);
            let (from, to) = (days.start - test.start, days.end - test.start);
            let lines = rows.iter().zip(names).map(|(row, name)| {
                let flow = row[from..to].iter().map(|flow| f64::from(*flow));
                let line = Line::new(name, (1..).map(f64::from).zip(flow).collect()).with_zero();
                match name == names[2] {
                    true => line.dashed(),
                    false => line,
                }
            });
            LinesPanel {
                title: format!("Flow in {year} (mm/day)"),
                x: format!("day of {year}"),
                lines: lines.collect(),
            }
        });
        let path = folder.path().join("hydrograph.png");
        let title = format!("{} in two of the test years", self.title());
        Ok(lines_figure(path, &title, &panels)?)
    }
}

/// The share of the gradient that chunks without context leave out, measured after every epoch.
#[derive(Clone)]
pub struct ChunkBias {
    train: PackedSource<SeriesSet>,
    probe: ProbeConfig,
    seed: u64,
}

impl ChunkBias {
    pub fn new(plan: &Plan, train: PackedSource<SeriesSet>) -> Self {
        Self {
            train,
            probe: plan.training.probe.clone(),
            seed: plan.training.seed,
        }
    }

    pub fn measures(
        &self,
        model: &Model,
        device: &Device,
    ) -> std::result::Result<Option<(&'static str, f64)>, TrainError> {
        let (model, scheme) = (model.clone().train(), Scheme::Strided { losses: CHUNK });
        let seeds: Vec<u64> = (1..=PROBES).map(|n| mix(self.seed, [n])).collect();
        let probe = self.probe.clone();
        let direct = probe_direct(&model, &self.train, probe, scheme, &seeds, device)?;
        let estimate = direct.estimate(scheme)?;
        // A gradient that noise hides has no share.
        let usable = estimate.gradient_square() > 0.0;
        Ok(usable.then(|| ("chunk_bias", estimate.relative_bias(1))))
    }
}

/// An epoch that is over.
pub fn epoch_line(report: &EpochReport) -> String {
    let measure = |name| number(report.measures.get(name).copied(), 3);
    format!(
        "epoch {:>3}  loss {:.4}; NSE {} on validation, {} on test; {:.0} s; K = {} days: {}; chunks of {CHUNK} days leave out {}{}",
        report.epoch,
        report.train_loss,
        measure("valid_nse"),
        measure("test_nse"),
        report.elapsed_seconds,
        report.k,
        report.reason.as_deref().unwrap_or("as configured"),
        number(report.measures.get("chunk_bias").copied(), 2),
        report.left_out(),
    )
}

/// Measures the bias of the trained model's gradient, prints it and draws it as `bias.png`, with that of chunks over the epochs.
pub fn bias(
    model: &Model,
    train: &PackedSource<SeriesSet>,
    plan: &Plan,
    result: &RunResult<Model>,
    device: &Device,
) -> Result<()> {
    let curve = trained_bias::measure(model, train, &plan.training, CHUNK, device)?;
    say(format_args!("\n{}", trained_bias::in_words(&curve, "days")));
    let epochs = result.reports.iter().map(|report| {
        let bias = report.measures.get("chunk_bias").copied();
        (report.epoch as f64, bias.unwrap_or(f64::NAN))
    });
    let panels = [
        LinesPanel {
            title: format!("What chunks of {CHUNK} days without context leave out of the gradient"),
            x: "epoch".into(),
            lines: vec![Line::new(format!("{PROBES} probes each"), epochs.collect()).with_zero()],
        },
        trained_bias::panel(&curve, "days"),
    ];
    let path = result.folder.path().join("bias.png");
    let title = "What truncation leaves out of the gradient";
    Ok(lines_figure(path, title, &panels)?)
}

//! Forecasts while the model learns, each by a model that knows nothing of what it forecasts.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use atbptt::models::{ModelError, SeriesBatch, SeriesModel, StackModel};
use atbptt::prelude::*;
use atbptt::train::data::{Normalisation, Series};
use atbptt::train::run::Forecast;
use atbptt::train::{ForecastErrors, WindowPlace};
use burn::tensor::Tensor;

use crate::common::Result;
use crate::common::snap::OneLstm;
use crate::recording::{AHEAD, COORDINATES, Recording};

pub type Model = SeriesModel<LstmLayer>;

/// Steps before a forecast that fill the state.
const CONTEXT: usize = 100;
/// Steps of the first half minute, whose errors nobody counts, and of the first minute: the half minute between them selects, and what
/// follows is the test.
pub const HALF_MINUTE: usize = 300;
pub const MINUTE: usize = 600;
/// Values of one step's forecast.
const OUTPUTS: usize = AHEAD * COORDINATES;
/// Name of the file that keeps forecasts for a run that goes on: records of a step (u32) and its forecast (f32), little-endian.
const FILE: &str = "forecasts.bin";

/// The bias is the weight of an input that is 1.
impl OneLstm for Model {
    fn lstm_inputs(&self, batch: &SeriesBatch) -> std::result::Result<Tensor<3>, ModelError> {
        let inputs = self.stack_input(batch)?;
        let one = inputs.ones_like().narrow(2, 0, 1);
        Ok(Tensor::cat(vec![inputs, one], 2))
    }

    fn input_rows(&self) -> Tensor<2> {
        let layer = &self.layers.layers[0];
        let weight = layer.input_weight.val();
        match &layer.bias {
            Some(bias) => Tensor::cat(vec![weight, bias.val().unsqueeze()], 0),
            None => Tensor::cat(vec![weight.clone(), weight.zeros_like().narrow(0, 0, 1)], 0),
        }
    }

    fn recurrent_rows(&self) -> Tensor<2> {
        self.layers.layers[0].recurrent_weight.val()
    }
}

/// A recording and the forecasts of it so far.
pub struct Online {
    pub recording: Recording,
    series: Series,
    scale: Normalisation,
    /// Losses per update, in steps; where their number changes, the largest.
    losses: usize,
    kept: Mutex<Kept>,
}

/// Forecast positions, row-major `[steps, ahead, coordinates]`, NaN where there is none, and where they are kept.
struct Kept {
    forecasts: Vec<f32>,
    file: File,
}

impl Online {
    /// Goes on with the forecasts that the run folder holds.
    pub fn new(
        recording: Recording,
        series: Series,
        scale: Normalisation,
        losses: usize,
        folder: &Path,
    ) -> Result<Self> {
        let path = folder.join(FILE);
        let mut forecasts = vec![f32::NAN; recording.steps() * OUTPUTS];
        let bytes = fs::read(&path).unwrap_or_default();
        let words = |record: &[u8]| -> Vec<[u8; 4]> {
            let words = record.chunks_exact(4);
            words.filter_map(|word| word.try_into().ok()).collect()
        };
        for record in bytes.chunks_exact(4 * (1 + OUTPUTS)).map(words) {
            let step = u32::from_le_bytes(record[0]) as usize;
            if let Some(row) = forecasts.chunks_mut(OUTPUTS).nth(step) {
                let values = record[1..].iter().map(|word| f32::from_le_bytes(*word));
                row.iter_mut().zip(values).for_each(|(to, from)| *to = from);
            }
        }
        // A record that a killed process did not finish goes.
        let whole = bytes.len() - bytes.len() % (4 * (1 + OUTPUTS));
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        file.set_len(whole as u64)?;
        Ok(Self {
            recording,
            series,
            scale,
            losses,
            kept: Mutex::new(Kept { forecasts, file }),
        })
    }

    /// Forecasts from the steps of the next window. What the model has learnt at `place` ends with the last target of the step before
    /// it, `AHEAD` steps later: so much later begins what it may forecast from.
    pub fn look(&self, model: &Model, place: WindowPlace) -> std::result::Result<(), TrainError> {
        let first = place.counted + AHEAD - 1;
        let steps = first..(first + self.losses).min(self.recording.steps());
        if steps.is_empty() {
            return Ok(());
        }
        // From zero, so that a run that goes on forecasts the same.
        let from = first.saturating_sub(CONTEXT);
        let inputs = self.series.part(from..steps.end, 0);
        let mut forecast = Forecast::new(model.clone(), self.scale.clone())?;
        let moves = forecast.predict(inputs.inputs())?.mean;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for step in steps {
            let moves = &moves[(step - from) * OUTPUTS..(step + 1 - from) * OUTPUTS];
            let now = self.recording.at(step).iter().cycle();
            let row: Vec<f32> = moves
                .iter()
                .zip(now)
                .map(|(moved, now)| now + moved)
                .collect();
            let mut record = (step as u32).to_le_bytes().to_vec();
            record.extend(row.iter().flat_map(|value| value.to_le_bytes()));
            kept.file
                .write_all(&record)
                .map_err(|error| TrainError::Read {
                    reason: format!("{FILE} cannot be written: {error}"),
                })?;
            kept.forecasts[step * OUTPUTS..(step + 1) * OUTPUTS].copy_from_slice(&row);
        }
        Ok(())
    }

    /// The forecast for `step`, made `ahead` steps before; NaN where there is none.
    pub fn forecast(&self, step: usize, ahead: usize) -> Vec<f32> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let row = step.checked_sub(ahead).map(|made| made * AHEAD + ahead - 1);
        let row = row.and_then(|row| kept.forecasts.chunks(COORDINATES).nth(row));
        row.map_or_else(|| vec![f32::NAN; COORDINATES], <[f32]>::to_vec)
    }

    /// Errors of forecasts for these steps, made `ahead` steps before, or of the position at that time as the forecast.
    pub fn errors(
        &self,
        steps: Range<usize>,
        ahead: usize,
        persistence: bool,
    ) -> std::result::Result<ForecastErrors, TrainError> {
        let (mut forecast, mut measured) = (Vec::new(), Vec::new());
        for step in steps {
            let made = self.forecast(step, ahead);
            if made.iter().all(|value| value.is_finite()) {
                measured.extend_from_slice(self.recording.at(step));
                match persistence {
                    true => forecast.extend_from_slice(self.recording.at(step - ahead)),
                    false => forecast.extend(made),
                }
            }
        }
        Ok(ForecastErrors::of(&forecast, &measured, COORDINATES)?)
    }

    /// Errors averaged over the horizons: of the half minute that selects, and of the test.
    pub fn measures(&self) -> std::result::Result<[(&'static str, f64); 4], TrainError> {
        let test = MINUTE..self.recording.steps();
        let mean = |steps: Range<usize>, persistence, of: fn(&ForecastErrors) -> f64| {
            let errors = (1..=AHEAD).map(|ahead| self.errors(steps.clone(), ahead, persistence));
            let errors: Vec<f64> = errors
                .map(|errors| errors.map(|errors| of(&errors)))
                .collect::<std::result::Result<_, _>>()?;
            Ok::<_, TrainError>(errors.iter().sum::<f64>() / AHEAD as f64)
        };
        // Of a marker's position: three coordinates.
        let distance = |errors: &ForecastErrors| errors.root_mean_square() * 3.0_f64.sqrt();
        let normalised = |steps, persistence| mean(steps, persistence, ForecastErrors::normalised);
        Ok([
            ("valid_nrmse", normalised(HALF_MINUTE..MINUTE, false)?),
            ("test_nrmse", normalised(test.clone(), false)?),
            ("test_rmse", mean(test.clone(), false, distance)?),
            ("persistence_nrmse", normalised(test, true)?),
        ])
    }
}

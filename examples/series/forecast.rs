//! Forecasts with a carried state: over all rows of a file, and beyond the last by the horizon.

use std::path::PathBuf;

use atbptt::models::{LstmLayer, SeriesModel};
use atbptt::prelude::*;
use atbptt::train::data::{PackedSource, SeriesSet};
use atbptt::train::plot::{Line, LinesPanel, lines_figure};
use atbptt::train::run::RunFolder;
use burn::tensor::{Device, Tensor};

use crate::common::Result;
use crate::data::{Data, Loaded};

type Model = SeriesModel<LstmLayer>;

/// Means and deviations, row-major `[time, out]` of every stream; NaN where there is no deviation.
struct Predicted {
    mean: Vec<f32>,
    deviation: Vec<f32>,
}

/// Runs over `source`, a stream per series, the state carried from chunk to chunk.
fn predict(
    model: &Model,
    source: &PackedSource<SeriesSet>,
    chunk: usize,
    device: &Device,
) -> std::result::Result<Vec<Predicted>, TrainError> {
    let empty = |_| Predicted {
        mean: Vec::new(),
        deviation: Vec::new(),
    };
    let mut streams: Vec<Predicted> = (0..source.sequences()).map(empty).collect();
    let mut state = None;
    for start in (0..source.common_steps()).step_by(chunk) {
        let steps = chunk.min(source.common_steps() - start);
        let batch = source.window(start, steps, device)?;
        let (prediction, after) = model.predict(&batch, state)?;
        state = Some(after);
        let mean = read(prediction.mean)?;
        let deviation = match prediction.deviation {
            Some(deviation) => read(deviation)?,
            None => vec![f32::NAN; mean.len()],
        };
        let row = steps * source.set().d_target();
        let rows = mean.chunks(row).zip(deviation.chunks(row));
        for (stream, (mean, deviation)) in streams.iter_mut().zip(rows) {
            stream.mean.extend_from_slice(mean);
            stream.deviation.extend_from_slice(deviation);
        }
    }
    Ok(streams)
}

fn read(values: Tensor<3>) -> std::result::Result<Vec<f32>, TrainError> {
    let data = values.try_into_data().map_err(|error| TrainError::Read {
        reason: error.to_string(),
    })?;
    Ok(data.iter::<f32>().collect())
}

/// Root of the mean squared error of every target of `source`, in its units.
pub fn root_mean_squares(
    model: &Model,
    source: &PackedSource<SeriesSet>,
    chunk: usize,
    device: &Device,
) -> std::result::Result<Vec<f64>, TrainError> {
    let out = source.set().d_target();
    let mut sums = vec![(0.0, 0usize); out];
    let predicted = predict(model, source, chunk, device)?;
    for (sequences, predicted) in source.order().iter().zip(&predicted) {
        let targets = sequences
            .iter()
            .flat_map(|&nth| source.set().series()[nth].targets());
        for (at, (target, mean)) in targets.zip(&predicted.mean).enumerate() {
            if !target.is_nan() {
                let (sum, count) = &mut sums[at % out];
                *sum += f64::from(target - mean).powi(2);
                *count += 1;
            }
        }
    }
    Ok(sums
        .into_iter()
        .map(|(sum, count)| (sum / count as f64).sqrt())
        .collect())
}

/// Panels that a figure has room for.
const MAX_PANELS: usize = 6;

/// Forecasts all series: writes `forecast.csv` and draws `forecast.png`, whose path it gives.
pub fn write(
    model: &Model,
    series: &Loaded,
    data: &Data,
    folder: &RunFolder,
    chunk: usize,
) -> Result<PathBuf> {
    let device = burn::module::Module::devices(model)
        .into_iter()
        .next()
        .unwrap_or_default();
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record([
        "file",
        "row",
        "part",
        "target",
        "measured",
        "forecast",
        "deviation",
    ])?;
    let mut panels = Vec::new();
    let (horizon, shares) = (data.horizon(), data.shares());
    for (name, one) in series.names.iter().zip(series.normalised.series()) {
        let steps = one.steps();
        let source = PackedSource::new(SeriesSet::new(vec![one.clone()])?, 1)?;
        let predicted = predict(model, &source, chunk, &device)?;
        let [train, valid] = shares.map(|share| (share * steps as f64).round() as usize);
        for (column, (target, scale)) in data
            .targets
            .iter()
            .zip(&series.normalisation.targets)
            .enumerate()
        {
            let of = |values: &[f32]| -> Vec<f32> {
                values
                    .iter()
                    .copied()
                    .skip(column)
                    .step_by(data.targets.len())
                    .collect()
            };
            let measured = of(one.targets());
            let (mean, deviation) = (of(&predicted[0].mean), of(&predicted[0].deviation));
            let mut lines: [Vec<(f64, f64)>; 2] = [Vec::new(), Vec::new()];
            // Where the model says how sure it is, two deviations: 95 % of the measurements.
            let mut band = Vec::new();
            for step in 0..steps {
                let part = match step {
                    _ if step + horizon >= steps => "beyond",
                    _ if step < train => "training",
                    _ if step < valid => "validation",
                    _ => "test",
                };
                // Counted from 1, as in the errors of the reader.
                let row = step + horizon + 1;
                let (truth, forecast) = (scale.restore(measured[step]), scale.restore(mean[step]));
                let sure = f64::from(deviation[step]) * scale.scale;
                let known = |value: f64| match value.is_finite() {
                    true => value.to_string(),
                    false => String::new(),
                };
                table.write_record([
                    name.as_str(),
                    &row.to_string(),
                    part,
                    target,
                    &known(truth.into()),
                    &forecast.to_string(),
                    &known(sure),
                ])?;
                if step >= valid {
                    lines[0].push((row as f64, truth.into()));
                    lines[1].push((row as f64, forecast.into()));
                    if sure.is_finite() {
                        let (low, high) = (
                            f64::from(forecast) - 2.0 * sure,
                            f64::from(forecast) + 2.0 * sure,
                        );
                        band.push((row as f64, low, high));
                    }
                }
            }
            let [measured, forecast] = lines;
            panels.push(LinesPanel {
                title: match series.names.len() {
                    1 => target.clone(),
                    _ => format!("{target}, {name}"),
                },
                x: "row".into(),
                lines: vec![
                    Line::new("forecast", forecast).dashed().with_band(band),
                    Line::new("measured", measured),
                ],
            });
        }
    }
    folder.write("forecast.csv", table.into_inner()?)?;
    panels.truncate(MAX_PANELS);
    let path = folder.path().join("forecast.png");
    let title = format!("Forecast of the test part: {}", data.title());
    lines_figure(&path, &title, &panels)?;
    Ok(path)
}

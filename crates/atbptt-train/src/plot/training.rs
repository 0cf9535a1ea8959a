//! The course of a run: perplexity, truncation length and estimated bias over the epochs.

use super::PlotError;
use super::chart::{
    Around, BLUE, Chart, Entry, GREEN, HEAD, PALE, PURPLE, Point, Stroke, VERMILION, heading,
};
use super::rows::{EpochRow, EstimateRow};
use super::scale::{Scale, number};
use super::sheet::{Area, Sheet};

/// Three panels over the epochs: perplexities, K, and the estimated relative bias with the tolerance `delta`.
///
/// With `estimates`, K and bias are drawn as they were at each estimate, the bias with its interval; without, as the rows have
/// them. Perplexities get a logarithmic scale when they differ thirtyfold.
pub(super) fn draw(
    rows: &[EpochRow],
    estimates: &[EstimateRow],
    delta: Option<f64>,
) -> Result<Sheet, PlotError> {
    let (Some(first), Some(last)) = (
        rows.iter().map(|row| row.epoch).min(),
        rows.iter().map(|row| row.epoch).max(),
    ) else {
        return Err(PlotError::Empty { what: "epoch" });
    };
    let epochs = epoch_scale(first, last, estimates);
    let mut sheet = Sheet::new(1020)?;
    sheet.draw(|area| {
        heading(area, "Training run")?;
        perplexity_chart(area, epochs.clone(), rows)?;
        length_chart(area, epochs.clone(), rows, estimates)?;
        bias_chart(area, epochs, rows, estimates, delta)
    })?;
    Ok(sheet)
}

fn perplexity_chart(area: &Area<'_>, x: Scale, rows: &[EpochRow]) -> Result<(), PlotError> {
    let train = column(rows, |row| row.train_perplexity);
    let valid = column(rows, |row| row.valid_perplexity);
    let lines = [
        ("train".to_owned(), &train, BLUE),
        (valid_name(rows), &valid, VERMILION),
    ];
    let around = Around {
        title: "Perplexity",
        top: 86.0,
        head: HEAD,
        height: 344.0,
        x,
        x_name: None,
        y: Scale::automatic(values(&train).chain(values(&valid)).collect::<Vec<_>>()),
        legend: lines
            .iter()
            .map(|(name, _, color)| Entry::new(name, Stroke::solid(*color, 2.6)))
            .collect(),
    };
    let chart = Chart::new(area, around)?;
    for (_, points, color) in lines {
        chart.curve(points, Stroke::solid(color, 2.6))?;
        chart.dots(points, color)?;
    }
    Ok(())
}

fn length_chart(
    area: &Area<'_>,
    x: Scale,
    rows: &[EpochRow],
    estimates: &[EstimateRow],
) -> Result<(), PlotError> {
    let by_epoch = column(rows, |row| row.k);
    // K stays as it is from one estimate to the next, and after the last one.
    let changes = estimates.iter().map(|row| row.epoch).skip(1);
    let end = by_epoch.last().map(|point| point.0);
    let estimated: Vec<Point> = estimates
        .iter()
        .zip(changes.chain(end))
        .flat_map(|(row, until)| [(row.epoch, row.k), (until.max(row.epoch), row.k)])
        .collect();
    let points = if estimates.is_empty() {
        &by_epoch
    } else {
        &estimated
    };
    let around = Around {
        title: "Truncation length K (steps)",
        top: 490.0,
        head: HEAD,
        height: 200.0,
        x,
        x_name: None,
        y: Scale::linear(values(points)).map(Scale::counting),
        legend: Vec::new(),
    };
    let chart = Chart::new(area, around)?;
    chart.curve(points, Stroke::solid(GREEN, 2.6))?;
    match estimates.is_empty() {
        true => chart.dots(points, GREEN),
        false => Ok(()),
    }
}

fn bias_chart(
    area: &Area<'_>,
    x: Scale,
    rows: &[EpochRow],
    estimates: &[EstimateRow],
    delta: Option<f64>,
) -> Result<(), PlotError> {
    let by_epoch = column(rows, |row| row.relative_bias);
    let estimated: Vec<Point> = estimates
        .iter()
        .map(|row| (row.epoch, row.relative_bias))
        .collect();
    let points = if estimates.is_empty() {
        &by_epoch
    } else {
        &estimated
    };
    let interval: Vec<(f64, f64, f64)> = estimates
        .iter()
        .map(|row| (row.epoch, row.lower, row.upper))
        .collect();
    let delta = delta.filter(|delta| delta.is_finite());
    let any = values(points).any(f64::is_finite);
    // From zero: a bias far below the tolerance is as good as none, however far.
    let y = any.then(|| Scale::linear(values(points).chain(delta).chain([0.0])));
    let (bias_stroke, delta_stroke) = (Stroke::solid(PURPLE, 2.6), Stroke::dashed(VERMILION, 2.0));
    let mut legend = Vec::new();
    if interval.iter().any(|(_, low, high)| low <= high) {
        legend.push(Entry::new("interval", Stroke::solid(PALE, 9.0)));
    }
    if let Some(delta) = delta {
        let name = format!("tolerance δ = {}", number(delta));
        legend.push(Entry::new(name, delta_stroke));
    }
    let around = Around {
        title: "Estimated relative bias δ(K)",
        top: 750.0,
        head: HEAD,
        height: 210.0,
        x,
        x_name: Some("epoch"),
        y: y.flatten(),
        legend,
    };
    let chart = Chart::new(area, around)?;
    chart.band(&interval, PURPLE)?;
    if let Some(delta) = delta {
        chart.level(delta, delta_stroke)?;
    }
    chart.curve(points, bias_stroke)?;
    chart.dots(points, PURPLE)
}

fn column(rows: &[EpochRow], value: fn(&EpochRow) -> f64) -> Vec<Point> {
    rows.iter()
        .map(|row| (row.epoch as f64, value(row)))
        .collect()
}

fn values(points: &[Point]) -> impl Iterator<Item = f64> + Clone + '_ {
    points.iter().map(|point| point.1)
}

/// Epochs with some air, so that the first dot does not sit on the frame.
fn epoch_scale(first: usize, last: usize, estimates: &[EstimateRow]) -> Scale {
    let earliest = estimates
        .iter()
        .map(|row| row.epoch)
        .filter(|at| at.is_finite());
    let start = earliest
        .fold(first as f64, f64::min)
        .max(first as f64 - 1.0);
    let air = 0.02 * (last - first) as f64 + 0.2;
    Scale::span(start - air, last as f64 + air).counting()
}

/// `valid`, with its best value.
fn valid_name(rows: &[EpochRow]) -> String {
    let finite = rows.iter().filter(|row| row.valid_perplexity.is_finite());
    match finite.min_by(|a, b| a.valid_perplexity.total_cmp(&b.valid_perplexity)) {
        Some(best) => format!(
            "valid (best {}, epoch {})",
            number(best.valid_perplexity),
            best.epoch
        ),
        None => "valid".to_owned(),
    }
}

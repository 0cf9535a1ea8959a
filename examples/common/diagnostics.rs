//! A closer look at a trained model: its lag profile part by part, the bias measured directly, and what each reading of the
//! gradient's size makes of the norms.

use atbptt::core::policy::Estimator;
use atbptt::core::seed::mix;
use atbptt::core::{BiasEstimate, BiasEstimator, DirectEstimate, GradientSize, LagNorms};
use atbptt::models::RecurrentModel;
use atbptt::prelude::*;
use atbptt::train::plot::{LagProfileFigure, Line, LinesPanel, lag_profile_figure, lines_figure};
use atbptt::train::run::{PolicyConfig, RunFolder};
use atbptt::train::{probe, probe_direct};
use burn::tensor::Device;

use super::Result;
use super::options::Plan;
use super::rule;

/// The readings of the gradient's size, and how figures name them.
pub const SIZES: [(GradientSize, &str); 4] = [
    (GradientSize::SumOfNorms, "sum of norms"),
    (GradientSize::SumOfStateNorms, "sum of norms, states only"),
    (GradientSize::NormOfMeanSum, "norm of the mean sum"),
    (
        GradientSize::NormOfMeanStateSum,
        "norm of the mean sum, states only",
    ),
];

/// Probes of a diagnosis: enough for smooth curves.
const PROBES: u64 = 8;

/// Probes `model` and writes `profiles.png`, `profiles.csv` and `lag_profile.png`.
///
/// `model` is on an autodiff device. `parts` names the parts of its state, such as `layer 1, hidden`.
pub fn diagnose<M: RecurrentModel>(
    model: &M,
    source: &dyn SequenceSource<Batch = M::Batch>,
    plan: &Plan,
    folder: &RunFolder,
    parts: &[String],
    device: &Device,
) -> Result<()> {
    let seeds: Vec<u64> = (1..=PROBES)
        .map(|nth| mix(plan.training.seed, [nth]))
        .collect();
    let (directly, norms) = match rule::monitor(&plan.policy)?.estimator {
        Estimator::Norms(norms) | Estimator::Paper(norms) => (false, norms),
        _ => (true, BiasEstimator::default()),
    };
    let direct: Option<DirectEstimate> = match directly {
        true => {
            let (config, scheme) = (plan.training.probe.clone(), plan.training.scheme);
            let statistics = probe_direct(model, source, config, scheme, &seeds, device)?;
            // Weights that have diverged have no estimate; their norms may still show where.
            statistics.estimate(scheme).ok()
        }
        false => None,
    };
    let probes: Vec<LagNorms> = seeds
        .iter()
        .map(|&seed| {
            device.seed(seed);
            probe(model, source, plan.training.probe.clone(), seed, device)
        })
        .collect::<std::result::Result<_, _>>()?;
    let pooled = LagNorms::pool(&probes.iter().collect::<Vec<_>>())?;
    let profile = |of: &LagNorms| -> Result<Vec<f64>> { Ok(of.phi(norms.averaging)?) };
    let mut profiles = vec![("all parts".to_owned(), profile(&pooled)?)];
    for (part, name) in parts.iter().enumerate() {
        let of_part: Vec<LagNorms> = probes
            .iter()
            .map(|probe| probe.part(part))
            .collect::<std::result::Result<_, _>>()?;
        let pooled = LagNorms::pool(&of_part.iter().collect::<Vec<_>>())?;
        profiles.push((name.clone(), profile(&pooled)?));
    }
    let estimate = |size: GradientSize| -> Option<BiasEstimate> {
        let estimator: BiasEstimator = norms.with_gradient_size(size);
        estimator.estimate(&pooled).ok()
    };
    write_table(folder, &profiles, direct.as_ref(), &estimate)?;

    let by_lag = |values: &[f64], from: usize| -> Vec<(f64, f64)> {
        // Zeros have no logarithm; a part that lag 0 does not touch begins at lag 1.
        let positive = |x: f64| if x > 0.0 { x } else { f64::NAN };
        values
            .iter()
            .enumerate()
            .skip(from)
            .map(|(lag, &value)| (lag as f64, positive(value)))
            .collect()
    };
    let line = |name: &str, points| Line::new(name, points);
    let smallest = |k: Option<usize>, name: &str| match k {
        Some(k) => format!("{name}: K = {k}"),
        None => name.to_owned(),
    };
    let mut bias: Vec<Line> = Vec::new();
    if let Some(direct) = &direct {
        let found = plan.delta().and_then(|delta| direct.smallest_k(delta));
        let known = |k: usize| match direct.relative_bias(k) {
            bias if bias > 1e-4 => bias,
            _ => f64::NAN,
        };
        let lengths = || 1..=pooled.window();
        let points = lengths().map(|k| (k as f64, known(k)));
        let band = lengths().map(|k| {
            let low = known(k) - 2.0 * direct.standard_error(k);
            (k as f64, low.max(1e-4), direct.upper_limit(k))
        });
        bias.push(
            Line::new(smallest(found, "measured directly"), points.collect())
                .with_band(band.collect()),
        );
    }
    for (size, name) in SIZES {
        let Some(estimate) = estimate(size) else {
            continue;
        };
        let chosen = plan.delta().and_then(|delta| estimate.smallest_k(delta));
        let name = smallest(chosen, name);
        let curve = estimate.relative_bias_curve();
        // Far above one or below any tolerance nothing is told apart; it would flatten the rest.
        let shown: Vec<f64> = curve
            .iter()
            .map(|bias| match (1e-4..1e4).contains(bias) {
                true => *bias,
                false => f64::NAN,
            })
            .collect();
        let line = line(&name, by_lag(&shown, 1));
        bias.push(match direct {
            Some(_) => line.dashed(),
            None => line,
        });
    }
    if let Some(delta) = plan.delta() {
        let last = pooled.window() as f64;
        let name = format!("tolerance δ = {delta}");
        bias.push(Line::new(name, vec![(1.0, delta), (last, delta)]).dashed());
    }
    let panels = [
        LinesPanel {
            title: "Lag profile φ by part of the state".into(),
            x: "lag k (steps)".into(),
            lines: profiles
                .iter()
                .enumerate()
                // Lag 0 is the output's gradient, which belongs to no part.
                .map(|(nth, (name, phi))| line(name, by_lag(phi, nth.min(1))))
                .collect(),
        },
        LinesPanel {
            title: "Relative bias δ(K): estimates and readings of the gradient's size".into(),
            x: "K (steps)".into(),
            lines: bias,
        },
    ];
    lines_figure(
        folder.path().join("profiles.png"),
        "Lag profiles of the trained model",
        &panels,
    )?;

    let Ok(estimate) = norms.estimate(&pooled) else {
        return Ok(());
    };
    let (delta, policy) = (plan.delta().unwrap_or(f64::NAN), plan.policy.init()?);
    let chosen = match &direct {
        Some(direct) => direct.smallest_k(delta),
        None => estimate.smallest_k(delta),
    };
    let k = match &plan.policy {
        PolicyConfig::Adaptive(rule) => chosen.unwrap_or(rule.k_max).clamp(rule.k_min, rule.k_max),
        _ => policy.k(),
    };
    let bias = (1..=pooled.window()).map(|k| match &direct {
        Some(direct) => (k, direct.relative_bias(k)),
        None => (k, estimate.relative_bias(k)),
    });
    let bias: Vec<(usize, f64)> = bias.collect();
    let sequences: Vec<Vec<f64>> = (0..pooled.sequences())
        .map(|b| (0..pooled.lags()).map(|lag| pooled.row(lag)[b]).collect())
        .collect();
    lag_profile_figure(
        folder.path().join("lag_profile.png"),
        &LagProfileFigure {
            title: "Lag profile of the trained model",
            mean: &estimate.phi(),
            sequences: &sequences,
            tau: estimate.tau(),
            beta: Some(estimate.beta()).filter(|beta| beta.is_finite()),
            bias: &bias,
            delta,
            k,
        },
    )?;
    Ok(())
}

/// Names of the parts of a stacked LSTM's state.
pub fn lstm_parts(layers: usize) -> Vec<String> {
    (1..=layers)
        .flat_map(|layer| ["hidden", "cell"].map(|part| format!("layer {layer}, {part}")))
        .collect()
}

/// One row per lag: profiles of all parts, and the relative bias of keeping as many steps.
fn write_table(
    folder: &RunFolder,
    profiles: &[(String, Vec<f64>)],
    direct: Option<&DirectEstimate>,
    estimate: &dyn Fn(GradientSize) -> Option<BiasEstimate>,
) -> Result<()> {
    let mut table = csv::Writer::from_writer(Vec::new());
    let curves = SIZES.map(|(size, _)| estimate(size).map(|e| e.relative_bias_curve()));
    let head = ["lag".to_owned()]
        .into_iter()
        .chain(profiles.iter().map(|(name, _)| format!("phi, {name}")))
        .chain(["relative bias, direct", "standard error of it"].map(str::to_owned))
        .chain(SIZES.map(|(_, name)| format!("relative bias, {name}")));
    table.write_record(head)?;
    let lags = profiles.first().map_or(0, |(_, phi)| phi.len());
    for lag in 0..lags {
        let bias = curves.iter().map(|curve| {
            let value = curve.as_ref().and_then(|curve| curve.get(lag));
            value.map_or_else(String::new, f64::to_string)
        });
        let directly = direct.filter(|_| lag > 0);
        let directly = [
            directly.map(|direct| direct.relative_bias(lag)),
            directly.map(|direct| direct.standard_error(lag)),
        ]
        .map(|value| value.filter(|value| value.is_finite()))
        .map(|value| value.map_or_else(String::new, |value| value.to_string()));
        let row = [lag.to_string()]
            .into_iter()
            .chain(profiles.iter().map(|(_, phi)| phi[lag].to_string()))
            .chain(directly)
            .chain(bias);
        table.write_record(row)?;
    }
    Ok(folder.write("profiles.csv", table.into_inner()?)?)
}

//! What truncation leaves out of a trained model's gradient, over many probes: the curve, and the K that tolerances ask for.

use atbptt::core::DirectEstimate;
use atbptt::core::direct::{DirectOutcome, default_contexts};
use atbptt::core::seed::mix;
use atbptt::models::RecurrentModel;
use atbptt::prelude::*;
use atbptt::train::measured_bias;
use atbptt::train::plot::{Line, LinesPanel};
use burn::tensor::Device;

use super::Result;

/// Probes behind the curve.
const PROBES: u64 = 200;
/// Tolerances that the curve is asked about.
const TOLERANCES: [f64; 3] = [0.5, 0.2, 0.1];

/// The bias of the gradient of `losses` losses per update at every K; `model` in either mode, `device` with gradient tracking.
pub fn measure<M: RecurrentModel>(
    model: &M,
    train: &dyn SequenceSource<Batch = M::Batch>,
    training: &TbpttConfig,
    losses: usize,
    device: &Device,
) -> Result<DirectEstimate> {
    let probe = training.probe.clone();
    let ks: Vec<usize> = default_contexts(probe.window)
        .iter()
        .map(|context| context + 1)
        .collect();
    let seeds = (1..=PROBES).map(|nth| mix(training.seed, [u64::MAX, nth]));
    let seeds: Vec<u64> = seeds.collect();
    let scheme = Scheme::Strided { losses };
    let model = model.clone().train();
    Ok(measured_bias(
        &model, train, probe, scheme, &ks, &seeds, device,
    )?)
}

/// A line per tolerance, and one on chunks without context; `unit` is what a step is, such as `days`.
pub fn in_words(curve: &DirectEstimate, unit: &str) -> String {
    if let outcome @ DirectOutcome::NoiseLimited { .. } = curve.outcome() {
        return format!(
            "what truncation leaves out of the trained model's gradient, {PROBES} probes do not tell: {outcome}"
        );
    }
    let mut text = format!("the trained model's gradient, over {PROBES} probes:\n");
    for delta in TOLERANCES {
        let (least, most) = curve.k_interval(delta, 2.0);
        text += &match curve.smallest_k(delta) {
            Some(k) => {
                format!("  a tolerance of {delta} asks for K = {k} {unit} ({least} to {most})\n")
            }
            None => format!(
                "  no K up to {} {unit} meets a tolerance of {delta}\n",
                curve.window()
            ),
        };
    }
    text + &format!(
        "  chunks of {} {unit} without context leave out {:.2} ± {:.2} of it",
        curve.losses(),
        curve.relative_bias(1),
        curve.standard_error(1),
    )
}

/// The curve with twice its standard error.
pub fn panel(curve: &DirectEstimate, unit: &str) -> LinesPanel {
    let points = curve.lengths().into_iter().map(|k| {
        let (bias, error) = (curve.relative_bias(k), 2.0 * curve.standard_error(k));
        (k as f64, bias, error)
    });
    let line = points.clone().map(|(k, bias, _)| (k, bias)).collect();
    let band = points.map(|(k, bias, error)| (k, bias - error, bias + error));
    LinesPanel {
        title: format!(
            "Relative bias δ(K) of the trained model, {} losses per update",
            curve.losses()
        ),
        x: format!("K ({unit})"),
        lines: vec![
            Line::new(format!("{PROBES} probes, ± 2 standard errors"), line)
                .with_band(band.collect())
                .with_zero(),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atbptt::core::DirectStatistics;

    #[test]
    fn a_gradient_that_noise_hides_has_no_share_and_no_length() {
        // Two pieces of four probes at right angles: no product between probes says anything.
        let gram = (0..64).map(|at| f64::from(u8::from(at % 9 == 0)));
        let statistics = DirectStatistics::new(6, 2, vec![0, 5], 4, gram.collect()).unwrap();
        let curve = statistics.estimate(Scheme::Strided { losses: 2 }).unwrap();
        let words = in_words(&curve, "days");
        assert!(words.contains("do not tell: noise-limited"), "{words}");
        assert!(!words.contains("inf"), "{words}");
    }
}

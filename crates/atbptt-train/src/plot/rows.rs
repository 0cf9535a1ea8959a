//! The points of a run's figure: what reports and decisions say, as numbers.

use atbptt_core::{Decision, DirectOutcome};

use crate::report::EpochReport;

/// What one epoch showed. NaN stands for what is not known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct EpochRow {
    /// Epoch, counted as the run counts.
    pub(crate) epoch: usize,
    /// Perplexity on the train split, as met during training.
    pub(crate) train_perplexity: f64,
    /// Perplexity on the valid split after the epoch.
    pub(crate) valid_perplexity: f64,
    /// Truncation length K in the epoch, in steps.
    pub(crate) k: f64,
    /// Estimated relative bias δ(K) of the gradient.
    pub(crate) relative_bias: f64,
}

/// What one estimate of the bias said, and the K it led to. NaN stands for what is not known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct EstimateRow {
    /// Epochs done when the estimate was made, with a fraction within an epoch.
    pub(crate) epoch: f64,
    /// Truncation length K from here on, in steps.
    pub(crate) k: f64,
    /// Estimated relative bias δ(K) of the gradient.
    pub(crate) relative_bias: f64,
    /// Lower end of its interval; NaN without one.
    pub(crate) lower: f64,
    /// Upper end of its interval; NaN without one.
    pub(crate) upper: f64,
}

/// A row per epoch.
pub(crate) fn epochs(reports: &[EpochReport]) -> Vec<EpochRow> {
    let row = |report: &EpochReport| EpochRow {
        epoch: report.epoch,
        train_perplexity: report.train_perplexity,
        valid_perplexity: report.valid_perplexity.unwrap_or(f64::NAN),
        k: report.k as f64,
        relative_bias: report.relative_bias.unwrap_or(f64::NAN),
    };
    reports.iter().map(row).collect()
}

/// Every decision that knew more than one number per epoch does: where estimates have an error, or there were several in an
/// epoch. Otherwise nothing, for the epochs' rows then say the same.
pub(crate) fn estimates(reports: &[EpochReport], history: &[Decision]) -> Vec<EstimateRow> {
    let with_error = history
        .iter()
        .any(|decision| decision.standard_error.is_some());
    let (Some(first), true) = (history.first(), with_error || history.len() > reports.len()) else {
        return Vec::new();
    };
    // Windows done after so many epochs.
    let windows = |epochs: usize| match epochs {
        0 => Some(0.0),
        _ => reports.get(epochs - 1).map(|report| report.step as f64),
    };
    let row = |decision: &Decision| {
        let epoch = decision.position.epoch;
        let within = windows(epoch)
            .zip(windows(epoch + 1))
            .map(|(from, to)| (decision.position.update as f64 - from) / (to - from))
            .filter(|share| (0.0..=1.0).contains(share));
        // Where noise hides the gradient, there is nothing to compare with.
        let noise_limited = matches!(decision.outcome, Some(DirectOutcome::NoiseLimited { .. }));
        let known = |value: Option<f64>| value.filter(|_| !noise_limited).unwrap_or(f64::NAN);
        let bias = known(decision.relative_bias);
        // Two standard errors down; the estimate knows its own upper limit.
        let error = decision.standard_error.unwrap_or(f64::NAN);
        EstimateRow {
            epoch: epoch as f64 + within.unwrap_or(0.0),
            k: decision.k as f64,
            relative_bias: bias,
            lower: match bias.is_nan() {
                true => f64::NAN,
                false => (bias - 2.0 * error).max(0.0),
            },
            upper: known(decision.upper_limit.or(Some(bias + 2.0 * error))),
        }
    };
    // Up to the first decision K was what the first epoch says, if it ended before.
    let start = (first.position.epoch > 0)
        .then(|| reports.first())
        .flatten()
        .map(|report| EstimateRow {
            epoch: 0.0,
            k: report.k as f64,
            relative_bias: f64::NAN,
            lower: f64::NAN,
            upper: f64::NAN,
        });
    start.into_iter().chain(history.iter().map(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(epoch: usize, step: u64, k: usize, error: Option<f64>) -> Decision {
        serde_json::from_value(serde_json::json!({
            "k": k,
            "reason": "ToleranceMet",
            "position": { "epoch": epoch, "update": step },
            "relative_bias": 0.25,
            "standard_error": error,
            "upper_limit": error.map(|_| 0.5),
            "probe_ks": [],
            "saturated": 0,
            "unusable": 0,
        }))
        .unwrap()
    }

    fn report(epoch: usize, step: u64) -> EpochReport {
        EpochReport {
            epoch,
            step,
            k: 20,
            ..EpochReport::default()
        }
    }

    /// 100 windows per epoch: window 150 is in the middle of the second. The bias is 0.25 with an error of 0.0625.
    #[test]
    fn decisions_within_an_epoch_have_their_place_and_their_interval() {
        let reports = [report(1, 100), report(2, 200)];
        let history = [
            decision(1, 100, 8, Some(0.0625)),
            decision(1, 150, 9, Some(0.0625)),
        ];
        let rows = estimates(&reports, &history);
        let places: Vec<(f64, f64)> = rows.iter().map(|row| (row.epoch, row.k)).collect();
        assert_eq!(places, [(0.0, 20.0), (1.0, 8.0), (1.5, 9.0)]);
        assert!(rows[0].relative_bias.is_nan());
        assert_eq!((rows[1].lower, rows[1].upper), (0.125, 0.5));
    }

    #[test]
    fn without_errors_one_decision_per_epoch_says_no_more_than_the_epochs() {
        let reports = [report(1, 100), report(2, 200)];
        assert!(estimates(&reports, &[decision(1, 100, 8, None)]).is_empty());
        let several = [1, 2, 3].map(|nth| decision(0, nth, 8, None));
        assert_eq!(estimates(&reports, &several).len(), 3);
        assert!(estimates(&reports, &[]).is_empty());
    }
}

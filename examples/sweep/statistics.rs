//! Paired differences: Student's t in plain code, Holm's adjustment, and the words that follow from an interval.

use std::fmt;

/// ln Γ(x) for x > 0 (Lanczos 1964, g = 7, nine terms).
fn ln_gamma(x: f64) -> f64 {
    const TERMS: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    let x = x - 1.0;
    let sum = TERMS
        .iter()
        .zip(1..)
        .fold(0.999_999_999_999_809_9, |sum, (term, nth)| {
            sum + term / (x + f64::from(nth))
        });
    let t = x + 7.5;
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

/// The regularised incomplete beta function I_x(a, b), by its continued fraction (modified Lentz).
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    // The fraction converges quickly below the mean only.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    let front =
        (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp() / a;
    let away = |value: f64| match value.abs() < 1e-300 {
        true => 1e-300,
        false => value,
    };
    let mut c = 1.0;
    let mut d = 1.0 / away(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for m in 1..300 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        for term in [even, odd] {
            d = 1.0 / away(1.0 + term * d);
            c = away(1.0 + term / c);
            fraction *= c * d;
        }
        if (c * d - 1.0).abs() < 1e-15 {
            break;
        }
    }
    front * fraction
}

/// Probability that Student's t with `df` degrees of freedom is at least `t` away from 0.
pub fn two_sided(t: f64, df: f64) -> f64 {
    incomplete_beta(df / 2.0, 0.5, df / (df + t * t))
}

/// The t that is exceeded in absolute value with probability `alpha`.
pub fn critical(alpha: f64, df: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while two_sided(high, df) > alpha && high < 1e12 {
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        match two_sided(middle, df) > alpha {
            true => low = middle,
            false => high = middle,
        }
    }
    0.5 * (low + high)
}

/// Mean and, of two values or more, sample standard deviation.
pub fn mean_and_sd(values: &[f64]) -> (f64, Option<f64>) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let sd = (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt());
    (mean, sd)
}

/// What paired differences say about their mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paired {
    pub mean: f64,
    /// Half the 95 % interval.
    pub half_width: f64,
    /// Two-sided, of a mean of 0.
    pub p: f64,
}

impl Paired {
    /// Of two differences or more, by a t-test.
    pub fn of(differences: &[f64]) -> Option<Self> {
        let (mean, sd) = mean_and_sd(differences);
        let count = differences.len() as f64;
        let error = sd? / count.sqrt();
        let df = count - 1.0;
        let p = match (error > 0.0, mean == 0.0) {
            (true, _) => two_sided(mean / error, df),
            // All differences are equal.
            (false, true) => 1.0,
            (false, false) => 0.0,
        };
        Some(Self {
            mean,
            half_width: critical(0.05, df) * error,
            p,
        })
    }
}

/// Holm's adjusted p-values (1979): with them below α, the chance of any wrong rejection in the family is at most α.
pub fn holm(ps: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..ps.len()).collect();
    order.sort_by(|&a, &b| ps[a].total_cmp(&ps[b]));
    let mut adjusted = vec![1.0; ps.len()];
    let mut least: f64 = 0.0;
    for (rank, &index) in order.iter().enumerate() {
        least = least.max(((ps.len() - rank) as f64 * ps[index]).min(1.0));
        adjusted[index] = least;
    }
    adjusted
}

/// What may be said of a policy beside the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Better,
    Worse,
    /// The whole interval lies within the margin.
    AsWell,
    NotShown,
}

impl Verdict {
    /// `difference` is the policy's score less the baseline's; `p` is adjusted.
    pub fn of(difference: &Paired, p: f64, margin: f64, more_is_better: bool) -> Self {
        let (low, high) = (
            difference.mean - difference.half_width,
            difference.mean + difference.half_width,
        );
        match (difference.mean > 0.0) == more_is_better {
            // A difference that is certain and too small to matter is no difference that matters.
            _ if -margin <= low && high <= margin => Self::AsWell,
            true if p < 0.05 => Self::Better,
            false if p < 0.05 => Self::Worse,
            _ => Self::NotShown,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::AsWell => "as well as",
            Self::NotShown => "not shown",
        })
    }
}

/// The value below which a share `q` of the sorted values lies, between neighbours in proportion; `None` without values.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(below + (above - below) * at.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(got: f64, expected: f64, within: f64) {
        assert!((got - expected).abs() <= within, "{got}, not {expected}");
    }

    /// Γ(5) = 24, Γ(1/2) = √π; I_x(1, 1) = x, I_x(2, 3) = 1 − (1 − x)³(1 + 3x).
    #[test]
    fn gamma_and_beta_take_their_closed_forms() {
        near(ln_gamma(5.0), 24f64.ln(), 1e-13);
        near(ln_gamma(0.5), 0.5 * std::f64::consts::PI.ln(), 1e-13);
        for x in [0.0, 0.05, 0.3, 0.5, 0.81, 1.0] {
            near(incomplete_beta(1.0, 1.0, x), x, 1e-14);
            let known = 1.0 - (1.0 - x).powi(3) * (1.0 + 3.0 * x);
            near(incomplete_beta(2.0, 3.0, x), known, 1e-13);
        }
    }

    /// The 97.5 % and 99.5 % columns of a table of Student's t.
    #[test]
    fn critical_values_are_those_of_the_tables() {
        for (df, five, one) in [
            (1.0, 12.7062, 63.6567),
            (2.0, 4.30265, 9.92484),
            (4.0, 2.77645, 4.60409),
            (9.0, 2.26216, 3.24984),
            (30.0, 2.04227, 2.75000),
            (120.0, 1.97993, 2.61742),
        ] {
            near(critical(0.05, df), five, 6e-5);
            near(critical(0.01, df), one, 6e-5);
            near(two_sided(five, df), 0.05, 1e-5);
        }
        // One degree of freedom is Cauchy's distribution.
        near(two_sided(1.0, 1.0), 0.5, 1e-13);
        near(two_sided(0.0, 4.0), 1.0, 1e-13);
    }

    /// Student (1908), additional hours of sleep of ten patients under two drugs: t = 4.0621, p = 0.00283, interval 0.70 to 2.46.
    #[test]
    fn a_paired_test_is_students() {
        let first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0];
        let second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4];
        let differences: Vec<f64> = second.iter().zip(first).map(|(b, a)| b - a).collect();
        let paired = Paired::of(&differences).unwrap();
        near(paired.mean, 1.58, 1e-12);
        near(paired.p, 0.002833, 1e-6);
        near(paired.mean - paired.half_width, 0.7001142, 1e-6);
        near(paired.mean + paired.half_width, 2.4598858, 1e-6);
        assert_eq!(Paired::of(&[1.0]), None);
        assert_eq!(Paired::of(&[0.0, 0.0]).unwrap().p, 1.0);
        assert_eq!(Paired::of(&[0.5, 0.5]).unwrap().p, 0.0);
    }

    /// 3 · 0.01, then 2 · 0.02, then no less than what came before.
    #[test]
    fn holm_multiplies_by_what_is_left_and_never_falls() {
        let adjusted = holm(&[0.03, 0.01, 0.02]);
        for (got, expected) in adjusted.iter().zip([0.04, 0.03, 0.04]) {
            near(*got, expected, 1e-15);
        }
        assert_eq!(holm(&[0.7, 0.6]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn a_quantile_lies_between_its_neighbours_in_proportion() {
        let values = [1.0, 2.0, 4.0, 8.0, 16.0];
        for (q, expected) in [(0.0, 1.0), (0.5, 4.0), (0.6, 5.6), (1.0, 16.0), (7.0, 16.0)] {
            near(quantile(&values, q).unwrap(), expected, 1e-12);
        }
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn words_follow_the_interval() {
        let difference = |mean, half_width| Paired {
            mean,
            half_width,
            p: 0.0,
        };
        // (mean, half width, adjusted p, more is better, word), margin 0.1
        for (mean, half_width, p, more, expected) in [
            (-0.5, 0.2, 0.01, false, Verdict::Better),
            (-0.5, 0.2, 0.01, true, Verdict::Worse),
            (0.5, 0.2, 0.01, false, Verdict::Worse),
            (0.5, 0.2, 0.01, true, Verdict::Better),
            // Its own interval excludes zero, the family's does not.
            (0.5, 0.4, 0.08, false, Verdict::NotShown),
            (0.05, 0.04, 0.01, false, Verdict::AsWell),
            (0.0, 0.1, 1.0, false, Verdict::AsWell),
            (0.05, 0.2, 0.6, false, Verdict::NotShown),
        ] {
            let verdict = Verdict::of(&difference(mean, half_width), p, 0.1, more);
            assert_eq!(verdict, expected, "{mean} ± {half_width}");
        }
    }
}

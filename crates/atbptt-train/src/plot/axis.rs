//! Scales: from values to positions, and where the ticks go.

/// Values beyond this are drawn at it, so that no difference overflows.
const LARGEST: f64 = 1e300;
/// Positive values below this are drawn at it on logarithmic scales.
const SMALLEST: f64 = 1e-300;

/// A linear or logarithmic scale.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    log: bool,
    /// Ticks at whole numbers only.
    whole: bool,
}

impl Axis {
    /// A linear scale that holds all finite `values` and some air; `None` when there are none.
    pub(super) fn linear(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let (low, high) = extent(values)?;
        let (low, high) = (low.clamp(-LARGEST, LARGEST), high.clamp(-LARGEST, LARGEST));
        let span = high - low;
        let air = if span > 0.0 {
            0.06 * span
        } else {
            (0.1 * high.abs()).max(0.5)
        };
        // Quantities that cannot be negative get no air below zero.
        let floor = if low >= 0.0 { 0.0 } else { f64::NEG_INFINITY };
        Some(Self {
            low: (low - air).max(floor),
            high: high + air,
            log: false,
            whole: false,
        })
    }

    /// A linear scale from `low` to `high`, without air.
    pub(super) fn span(low: f64, high: f64) -> Self {
        Self {
            low,
            high: if high > low { high } else { low + 1.0 },
            log: false,
            whole: false,
        }
    }

    /// The same scale for a quantity that counts: ticks at whole numbers only.
    pub(super) fn counting(mut self) -> Self {
        self.whole = true;
        self
    }

    /// A logarithmic scale that holds all finite positive `values` and some air; `None` when there are none.
    pub(super) fn log(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let positive = values.into_iter().filter(|&value| value > 0.0);
        let (low, high) = extent(positive)?;
        let (low, high) = (logarithm(low), logarithm(high));
        let air = if high > low { 0.05 * (high - low) } else { 0.2 };
        // Ticks must stay representable.
        Some(Self {
            low: (low - air).max(-305.0),
            high: (high + air).min(305.0),
            log: true,
            whole: false,
        })
    }

    /// Logarithmic when the largest value is at least five times the smallest, and none is zero or negative.
    pub(super) fn automatic(values: impl IntoIterator<Item = f64> + Clone) -> Option<Self> {
        let (low, high) = extent(values.clone())?;
        if low > 0.0 && high / 5.0 >= low {
            Self::log(values)
        } else {
            Self::linear(values)
        }
    }

    /// Position of `value` on the scale, 0 at its low end and 1 at its high end; `None` where it has none.
    pub(super) fn position(&self, value: f64) -> Option<f64> {
        let value = match self.log {
            _ if !value.is_finite() => return None,
            true if value <= 0.0 => return None,
            true => logarithm(value),
            false => value.clamp(-LARGEST, LARGEST),
        };
        Some((value - self.low) / (self.high - self.low))
    }

    /// Values that deserve a grid line, with their labels; about `wanted` of them.
    pub(super) fn ticks(&self, wanted: usize) -> Vec<(f64, String)> {
        if !self.log {
            return linear_ticks(
                (self.low, self.high),
                wanted,
                if self.whole { 1.0 } else { 0.0 },
            );
        }
        let (first, last) = (self.low.ceil() as i32, self.high.floor() as i32);
        if self.high - self.low > 2.5 {
            let step = ((last - first) as usize).div_ceil(wanted.max(1)).max(1) as i32;
            // Multiples of the step, so that 10⁰ is among them.
            let exponents = (first.div_euclid(step)..=last.div_euclid(step)).map(|n| n * step);
            let inside = exponents.filter(|exponent| (first..=last).contains(exponent));
            return inside
                .map(|exponent| (10_f64.powi(exponent), power_label(exponent)))
                .collect();
        }
        let inside = |&value: &f64| (self.low..=self.high).contains(&value.log10());
        let ticks: Vec<f64> = (first - 1..=last)
            .flat_map(|e| [1.0, 2.0, 5.0].map(|m| m * 10_f64.powi(e)))
            .filter(inside)
            .collect();
        if ticks.len() < 3 {
            let ticks = linear_ticks((10_f64.powf(self.low), 10_f64.powf(self.high)), wanted, 0.0);
            return ticks
                .into_iter()
                .filter(|(value, _)| *value > 0.0)
                .collect();
        }
        ticks
            .into_iter()
            .map(|value| (value, number(value)))
            .collect()
    }
}

/// Decimal logarithm of a positive value.
fn logarithm(value: f64) -> f64 {
    value.clamp(SMALLEST, LARGEST).log10()
}

/// Smallest and largest finite value.
fn extent(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values
        .into_iter()
        .filter(|value| value.is_finite())
        .fold(None, |found, value| match found {
            None => Some((value, value)),
            Some((low, high)) => Some((value.min(low), value.max(high))),
        })
}

/// Multiples of 1, 2 or 5 times a power of ten, at least `least` apart.
fn linear_ticks((low, high): (f64, f64), wanted: usize, least: f64) -> Vec<(f64, String)> {
    let rough = ((high - low) / wanted.max(1) as f64).max(least);
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|m| m * power)
        .into_iter()
        .find(|&step| step >= rough);
    let Some(step) = step.filter(|step| step.is_finite() && *step > 0.0) else {
        return Vec::new();
    };
    let decimals = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
    let plain = high.abs().max(low.abs()) < 1e6 && step >= 1e-6;
    let first = (low / step).ceil();
    let count = ((high / step).floor() - first).clamp(0.0, 100.0) as usize;
    (0..=count)
        .map(|i| {
            // `+ 0.0` turns −0 into 0.
            let value = (first + i as f64) * step + 0.0;
            (
                value,
                if plain {
                    format!("{value:.decimals$}")
                } else {
                    number(value)
                },
            )
        })
        .filter(|(value, _)| (low..=high).contains(value))
        .collect()
}

/// Ten to the power of `exponent`, in superscript digits.
fn power_label(exponent: i32) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    match exponent {
        0 => return "1".to_owned(),
        1 => return "10".to_owned(),
        _ => {}
    }
    let raised = exponent.to_string();
    let raised = raised.chars().map(|c| {
        c.to_digit(10)
            .and_then(|d| DIGITS.get(d as usize))
            .copied()
            .unwrap_or('⁻')
    });
    format!("10{}", raised.collect::<String>())
}

/// A number as a person would write it: three or four digits that matter.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || (1e-3..1e6).contains(&size) {
        let decimals = if size >= 100.0 {
            1
        } else if size >= 1.0 {
            2
        } else {
            4
        };
        let text = format!("{value:.decimals$}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    format!("{value:.2e}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks(5).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(
            labels(&Axis::span(0.0, 40.0)),
            ["0", "10", "20", "30", "40"]
        );
        assert_eq!(
            labels(&Axis::span(0.0, 1.0)),
            ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        assert_eq!(
            labels(&Axis::log([20.0, 900.0]).unwrap()),
            ["20", "50", "100", "200", "500", "1000"]
        );
        assert_eq!(
            labels(&Axis::log([1e-8, 10.0]).unwrap()),
            ["10⁻⁸", "10⁻⁶", "10⁻⁴", "10⁻²", "1"]
        );
        assert_eq!(labels(&Axis::span(0.8, 3.2).counting()), ["1", "2", "3"]);
        // Less than a decade: linear ticks on the logarithmic scale.
        assert_eq!(
            labels(&Axis::log([6.0, 9.0]).unwrap()),
            ["6", "7", "8", "9"]
        );
    }

    #[test]
    fn the_scale_is_logarithmic_only_for_wide_positive_ranges() {
        let log = |values: &[f64]| Axis::automatic(values.iter().copied()).unwrap().log;
        assert!(log(&[80.0, 400.0]));
        assert!(!log(&[80.0, 399.0]));
        assert!(!log(&[0.0, 400.0]));
        assert!(Axis::automatic([f64::NAN, f64::INFINITY]).is_none());
        assert!(Axis::log([0.0, -1.0]).is_none());
    }

    #[test]
    fn numbers_read_naturally() {
        let found = [0.0, 0.5, 1.0, 87.2, 116.94, 1234.0, 1e-7, 2.5e9, -3.0].map(number);
        assert_eq!(
            found,
            [
                "0", "0.5", "1", "87.2", "116.9", "1234", "1.00e-7", "2.50e9", "-3"
            ]
        );
    }

    proptest! {
        #[test]
        fn prop_any_value_fits_its_own_axis(values in prop::collection::vec(any::<f64>(), 1..20)) {
            let axes = [Axis::linear(values.clone()), Axis::log(values.clone()), Axis::automatic(values.clone())];
            for axis in axes.into_iter().flatten() {
                prop_assert!(axis.ticks(5).len() <= 101);
                for position in values.iter().filter_map(|&value| axis.position(value)) {
                    prop_assert!((-1e-9..=1.0 + 1e-9).contains(&position), "{position} on {axis:?}");
                }
                for (tick, _) in axis.ticks(5) {
                    prop_assert!(axis.position(tick).is_some_and(|p| (-0.01..=1.01).contains(&p)), "{tick} on {axis:?}");
                }
            }
        }
    }
}

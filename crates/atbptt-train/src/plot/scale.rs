//! Scales of an axis, linear or logarithmic, as a plotters coordinate: from values to positions, and where the ticks go.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// Values beyond this are drawn at it, so that no difference overflows.
const LARGEST: f64 = 1e300;
/// Positive values below this are drawn at it on logarithmic scales.
const SMALLEST: f64 = 1e-300;
/// Ends of the axis as positions; what is beyond them is rounding.
const ON_AXIS: Range<f64> = -0.001..1.001;

/// A linear or logarithmic scale with its ticks.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    log: bool,
    /// Ticks at whole numbers only.
    whole: bool,
    ticks: Vec<(f64, String)>,
}

impl Scale {
    fn new(low: f64, high: f64, log: bool) -> Self {
        Self {
            low,
            high,
            log,
            whole: false,
            ticks: Vec::new(),
        }
    }

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
        Some(Self::new((low - air).max(floor), high + air, false))
    }

    /// A linear scale from `low` to `high`, without air.
    pub(super) fn span(low: f64, high: f64) -> Self {
        Self::new(low, if high > low { high } else { low + 1.0 }, false)
    }

    /// A logarithmic scale that holds all finite positive `values` and some air; `None` when there are none.
    pub(super) fn log(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let positive = values.into_iter().filter(|&value| value > 0.0);
        let (low, high) = extent(positive)?;
        let (low, high) = (logarithm(low), logarithm(high));
        let air = if high > low { 0.05 * (high - low) } else { 0.2 };
        // Ticks must stay representable.
        let (low, high) = ((low - air).max(-305.0), (high + air).min(305.0));
        Some(Self::new(low, high, true))
    }

    /// Logarithmic when the largest value is at least thirty times the smallest, and none is zero or negative: less than that can be
    /// read off a linear scale, which most readers take for granted.
    pub(super) fn automatic(values: impl IntoIterator<Item = f64> + Clone) -> Option<Self> {
        let (low, high) = extent(values.clone())?;
        if low > 0.0 && high / 30.0 >= low {
            Self::log(values)
        } else {
            Self::linear(values)
        }
    }

    /// The same scale for a quantity that counts: ticks at whole numbers only.
    pub(super) fn counting(mut self) -> Self {
        self.whole = true;
        self
    }

    /// The same scale with about `wanted` ticks.
    pub(super) fn with_ticks(mut self, wanted: usize) -> Self {
        let wanted = wanted.max(1);
        self.ticks = match self.log {
            true => log_ticks((self.low, self.high), wanted),
            false => {
                let least = if self.whole { 1.0 } else { 0.0 };
                linear_ticks((self.low, self.high), wanted, least)
            }
        };
        self
    }

    /// Position of `value` on the scale, 0 at its low end and 1 at its high end; `None` where it has none.
    fn position(&self, value: f64) -> Option<f64> {
        let value = match self.log {
            _ if !value.is_finite() => return None,
            true if value <= 0.0 => return None,
            true => logarithm(value),
            false => value.clamp(-LARGEST, LARGEST),
        };
        Some((value - self.low) / (self.high - self.low))
    }

    /// Whether `value` can be drawn: finite, with a logarithm where one is needed, and between the ends.
    pub(super) fn holds(&self, value: f64) -> bool {
        self.position(value).is_some_and(|p| ON_AXIS.contains(&p))
    }

    /// The value, or the end of the axis that it lies beyond; `None` for NaN.
    pub(super) fn within(&self, value: f64) -> Option<f64> {
        let ends = self.range();
        (!value.is_nan()).then(|| value.clamp(ends.start, ends.end))
    }
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (start, end): (i32, i32)) -> i32 {
        let position = self.position(*value).unwrap_or(0.0).clamp(0.0, 1.0);
        start + (position * f64::from(end - start)).round() as i32
    }

    /// The ticks; no finer grid between them.
    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match hint.weight().allow_light_points() {
            true => Vec::new(),
            false => self.ticks.iter().map(|(value, _)| *value).collect(),
        }
    }

    fn range(&self) -> Range<f64> {
        let end = |value: f64| if self.log { 10_f64.powf(value) } else { value };
        end(self.low)..end(self.high)
    }
}

impl ValueFormatter<f64> for Scale {
    fn format_ext(&self, value: &f64) -> String {
        let tick = self.ticks.iter().find(|(at, _)| at == value);
        tick.map(|(_, label)| label.clone()).unwrap_or_default()
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

/// Powers of ten over many decades, 1, 2 and 5 times them over a few, round numbers within one; `low` and `high` are
/// logarithms.
fn log_ticks((low, high): (f64, f64), wanted: usize) -> Vec<(f64, String)> {
    let (first, last) = (low.ceil() as i32, high.floor() as i32);
    if high - low > 2.5 {
        let step = ((last - first) as usize).div_ceil(wanted).max(1) as i32;
        // Multiples of the step, so that 10⁰ is among them.
        return (first.div_euclid(step)..=last.div_euclid(step))
            .map(|n| n * step)
            .filter(|exponent| (first..=last).contains(exponent))
            .map(|exponent| (10_f64.powi(exponent), power_label(exponent)))
            .collect();
    }
    let inside = |value: &f64| (low..=high).contains(&value.log10());
    let ticks: Vec<(f64, String)> = (first - 1..=last)
        .flat_map(|exponent| [1.0, 2.0, 5.0].map(|m| m * 10_f64.powi(exponent)))
        .filter(inside)
        .map(|value| (value, number(value)))
        .collect();
    if ticks.len() >= 3 {
        return ticks;
    }
    let ticks = linear_ticks((10_f64.powf(low), 10_f64.powf(high)), wanted, 0.0);
    ticks
        .into_iter()
        .filter(|(value, _)| *value > 0.0)
        .collect()
}

/// Multiples of 1, 2 or 5 times a power of ten, at least `least` apart.
fn linear_ticks((low, high): (f64, f64), wanted: usize, least: f64) -> Vec<(f64, String)> {
    let rough = ((high - low) / wanted as f64).max(least);
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
        // `+ 0.0` turns −0 into 0.
        .map(|i| (first + i as f64) * step + 0.0)
        .filter(|value| (low..=high).contains(value))
        .map(|value| match plain {
            true => (value, format!("{value:.decimals$}")),
            false => (value, number(value)),
        })
        .collect()
}

/// Ten to the power of `exponent`, in superscript digits.
fn power_label(exponent: i32) -> String {
    let raised = |digit: char| match digit {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        other => char::from_u32('⁰' as u32 + other.to_digit(10).unwrap_or(0)).unwrap_or(other),
    };
    match exponent {
        0 => "1".to_owned(),
        1 => "10".to_owned(),
        _ => format!(
            "10{}",
            exponent.to_string().chars().map(raised).collect::<String>()
        ),
    }
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

    fn labels(scale: Scale) -> Vec<String> {
        let ticks = scale.with_ticks(5).ticks;
        ticks.into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(
            labels(Scale::span(0.0, 40.0)),
            ["0", "10", "20", "30", "40"]
        );
        assert_eq!(
            labels(Scale::span(0.0, 1.0)),
            ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        assert_eq!(
            labels(Scale::log([20.0, 900.0]).unwrap()),
            ["20", "50", "100", "200", "500", "1000"]
        );
        assert_eq!(
            labels(Scale::log([1e-8, 10.0]).unwrap()),
            ["10⁻⁸", "10⁻⁶", "10⁻⁴", "10⁻²", "1"]
        );
        assert_eq!(power_label(-1_234_567_890), "10⁻¹²³⁴⁵⁶⁷⁸⁹⁰");
        assert_eq!(labels(Scale::span(0.8, 3.2).counting()), ["1", "2", "3"]);
        // Less than a decade: linear ticks on the logarithmic scale.
        assert_eq!(
            labels(Scale::log([6.0, 9.0]).unwrap()),
            ["6", "7", "8", "9"]
        );
    }

    #[test]
    fn the_scale_is_logarithmic_only_for_wide_positive_ranges() {
        let log = |values: &[f64]| Scale::automatic(values.iter().copied()).unwrap().log;
        assert!(log(&[80.0, 2400.0]));
        assert!(!log(&[80.0, 2399.0]));
        assert!(!log(&[0.0, 400.0]));
        assert!(Scale::automatic([f64::NAN, f64::INFINITY]).is_none());
        assert!(Scale::log([0.0, -1.0]).is_none());
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

    #[test]
    fn only_values_between_the_ends_can_be_drawn() {
        let scale = Scale::span(1.0, 3.0);
        assert!(scale.holds(1.0) && scale.holds(3.0));
        assert!(!scale.holds(0.9) && !scale.holds(f64::NAN) && !scale.holds(f64::INFINITY));
        let log = Scale::log([1.0, 100.0]).unwrap();
        assert!(log.holds(10.0) && !log.holds(0.0) && !log.holds(-10.0));
        // Half the decades are half the way.
        assert_eq!(log.map(&10.0, (0, 200)), 100);
        assert_eq!(log.map(&10.0, (200, 0)), 100);
        assert_eq!(scale.within(9.0), Some(3.0));
        assert!(
            log.within(-1.0)
                .is_some_and(|low| log.map(&low, (0, 200)) == 0)
        );
        assert_eq!(scale.within(f64::NAN), None);
    }

    proptest! {
        #[test]
        fn prop_any_value_fits_its_own_scale(values in prop::collection::vec(any::<f64>(), 1..20)) {
            let scales = [Scale::linear(values.clone()), Scale::log(values.clone()), Scale::automatic(values.clone())];
            for scale in scales.into_iter().flatten() {
                let scale = scale.with_ticks(5);
                prop_assert!(scale.ticks.len() <= 101);
                for position in values.iter().filter_map(|&value| scale.position(value)) {
                    prop_assert!((-1e-9..=1.0 + 1e-9).contains(&position), "{position} on {scale:?}");
                }
                for (tick, _) in &scale.ticks {
                    prop_assert!(scale.position(*tick).is_some_and(|p| (-0.01..=1.01).contains(&p)), "{tick} on {scale:?}");
                }
            }
        }
    }
}

//! The order-book example: event files, the density of the point process and its gradient, and the quality of predictions.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

#[path = "../../examples/book_order"]
mod book_order {
    pub mod data;
    pub mod model;
    pub mod predict;
}

use std::fs;
use std::path::{Path, PathBuf};

use atbptt::models::SequenceBatch;
use atbptt::train::{SequenceSource, evaluate};
use book_order::data::{EventError, Events, content_hash};
use book_order::model::{EventModel, log_density};
use book_order::predict::{self, mean_interval, partial_mean};
use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use proptest::prelude::*;

/// Folder of real data, or why the test has nothing to check.
fn real_data(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("ATBPTT_DATA").unwrap_or_else(|| "../shared/data".into());
    let folder = Path::new(&root).join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    println!(
        "skipped: no folder {}; set ATBPTT_DATA to run this test",
        folder.display()
    );
    None
}

fn events(marks: &str, times: &str) -> Result<Events, EventError> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("event-1-train.txt"), marks).unwrap();
    fs::write(folder.path().join("time-1-train.txt"), times).unwrap();
    Events::from_folder(folder.path(), "train")
}

#[test]
fn wrong_event_files_are_named() {
    let cases = [
        ("1 2 1\n2 1\n", "0 1 2\n0 1 2\n", "line 2: 2 marks"),
        ("1 2\n", "0 1\n0 1\n", "1 lines"),
        (
            "1 2 1\n",
            "0 1 0.5\n",
            "event 3: times must not run backwards, got 0.5 after 1",
        ),
        (
            "1 0 1\n",
            "0 1 2\n",
            "event 2: a mark is a whole number from 1 to 1000000, got \"0\"",
        ),
        ("1 -1 1\n", "0 1 2\n", "got \"-1\""),
        ("1 1.5 1\n", "0 1 2\n", "got \"1.5\""),
        ("1 1000001 1\n", "0 1 2\n", "got \"1000001\""),
        (
            "1 2 1\n",
            "0 1 1e300\n",
            "event 3: the interval since the event before",
        ),
        (
            "1 2 1\n",
            "0 1 x\n",
            "event 3: a time is a finite number of seconds, got \"x\"",
        ),
        ("1 2 1\n", "0 1 inf\n", "got \"inf\""),
        ("1 2 1\n", "0 NaN 2\n", "got \"NaN\""),
        ("1\n2\n", "0\n0\n", "no sequence of two events"),
        ("", "", "no sequence of two events"),
    ];
    for (marks, times, expected) in cases {
        let error = events(marks, times).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected:?} in {error:?}");
    }
    let error = Events::from_folder(Path::new("/no/such"), "train").unwrap_err();
    assert!(matches!(error, EventError::Read { .. }));
    // A mark that training never saw.
    let unknown = events("1 3 1\n", "0 1 2\n").unwrap();
    let error = unknown.check(2).unwrap_err().to_string();
    assert!(error.contains("mark 3"), "{error}");
    unknown.check(3).unwrap();
}

/// A run is resumed by it: a mark, a time or a break between sequences makes other data.
#[test]
fn the_hash_of_events_sees_every_number() {
    let hash = |marks: &str, times: &str| {
        let all = events(marks, times).unwrap();
        content_hash([&all, &all, &all])
    };
    let first = hash("1 2 2\n2 1\n", "0 0.5 2\n7 7\n");
    assert_eq!(first.len(), 64);
    assert_eq!(hash("1 2 2\n2 1\n", "0 0.50 2\n7 7\n"), first);
    for (marks, times) in [
        ("1 2 1\n2 1\n", "0 0.5 2\n7 7\n"),
        ("1 2 2\n2 1\n", "0 0.5 2.5\n7 7\n"),
        ("1 2 2\n", "0 0.5 2\n"),
        ("2 1\n1 2 2\n", "7 7\n0 0.5 2\n"),
    ] {
        assert_ne!(hash(marks, times), first);
    }
}

/// Marks 1 2 2 at 0, 0.5, 2: two predictions, (1, first) → (2, 0.5) and (2, 0.5 later) → (2, 1.5).
#[test]
fn events_become_predictions_of_the_next() {
    let all = events("1 2 2\n2 1\n", "0 0.5 2\n7 7\n").unwrap();
    assert_eq!((all.len(), all.classes()), (3, 2));
    let numbers = |tensor: Tensor<1>| tensor.into_data().iter::<f64>().collect::<Vec<_>>();
    let batch = all.streams(1).window(0, 3, &Device::flex()).unwrap();
    let marks: Vec<i64> = batch.marks.to_data().iter::<i64>().collect();
    let next: Vec<i64> = batch.next_marks.to_data().iter::<i64>().collect();
    assert_eq!((marks, next), (vec![0, 1, 1], vec![1, 1, 0]));
    assert_eq!(
        numbers(batch.next_intervals.clone().reshape([3])),
        [0.5, 1.5, 0.0]
    );
    assert_eq!(
        numbers(batch.timing.clone().reshape([6])),
        [1.0, 0.0, 0.0, 0.5, 1.0, 0.0]
    );
    let reset: Vec<bool> = batch
        .reset
        .clone()
        .unwrap()
        .to_data()
        .iter::<bool>()
        .collect();
    assert_eq!(reset, [true, false, true]);
    assert!(batch.slice(1..2).marks.dims() == [1, 1]);

    let parallel = all.parallel();
    assert_eq!((parallel.sequences(), parallel.common_steps()), (2, 1));
    assert_eq!([0, 1, 2].map(|step| parallel.active(step)), [2, 1, 0]);
    let (first, second) = all.halves().unwrap();
    assert_eq!((first.len(), second.len()), (2, 1));
}

/// 100 sequences of 3,319 training events and of 829 test events, halved.
#[test]
fn the_order_book_has_the_events_it_is_said_to_have() {
    let Some(folder) = real_data("book_order") else {
        return;
    };
    let train = Events::from_folder(&folder, "train").unwrap();
    assert_eq!((train.len(), train.classes()), (100 * 3318, 2));
    assert_eq!(train.streams(64).common_steps(), 331_800 / 64);
    let (valid, test) = Events::from_folder(&folder, "test")
        .unwrap()
        .halves()
        .unwrap();
    assert_eq!((valid.len(), test.len()), (50 * 828, 50 * 828));
    test.check(2).unwrap();
}

/// log f(d) as it is written down, in doubles; w not near zero.
fn by_definition(a: f64, w: f64, d: f64) -> f64 {
    a + w * d + (a.exp() - (a + w * d).exp()) / w
}

fn density(dtype: DType, a: f64, w: f64, d: &[f64]) -> Vec<f64> {
    let device = Device::flex();
    let tensor = |values: Vec<f64>| {
        let count = values.len();
        Tensor::<1>::from_data(TensorData::new(values, [count]), (&device, dtype))
    };
    let result = log_density(
        tensor(vec![a; d.len()]),
        tensor(vec![w]),
        tensor(d.to_vec()),
    );
    result.into_data().iter::<f64>().collect()
}

proptest! {
    /// Against the definition where that is sound: both lose about ε e^a/w there.
    #[test]
    fn prop_the_density_is_the_one_defined(a in -3.0f64..3.0, w in 0.2f64..3.0, sign in any::<bool>(), d in 0.0f64..3.0) {
        let w = if sign { w } else { -w };
        let expected = by_definition(a, w, d);
        let got = density(DType::F64, a, w, &[d])[0];
        prop_assert!((got - expected).abs() <= 1e-12 * (1.0 + expected.abs() + a.exp() / w.abs()), "{got} {expected}");
    }

    /// As w goes to zero: log f(d) = a − e^a d − …, the exponential distribution with terms in w; single precision holds it
    /// to a few roundings of the largest term.
    #[test]
    fn prop_the_density_is_smooth_at_zero_slope(a in -3.0f64..6.0, w in -1e-3f64..1e-3, d in 0.0f64..2.0) {
        let exact = a + w * d - a.exp() * d * (1.0 + w * d / 2.0 + (w * d).powi(2) / 6.0 + (w * d).powi(3) / 24.0);
        for (dtype, rounding) in [(DType::F64, 1e-13), (DType::F32, 6e-7)] {
            let got = density(dtype, a, w, &[d])[0];
            let scale = 1.0 + a.abs() + a.exp() * d;
            prop_assert!((got - exact).abs() <= rounding * scale + 1e-12 * scale, "{dtype:?}: {got} {exact}");
        }
    }
}

#[test]
fn the_density_at_zero_slope_is_exponential() {
    let got = density(DType::F64, 1.0, 0.0, &[0.0, 0.5, 2.0]);
    let expected = [0.0, 0.5, 2.0].map(|d: f64| 1.0 - 1f64.exp() * d);
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() < 1e-15);
    }
}

/// Simpson's rule over [0, T]: 1 − S(T), where S(T) = exp(−Λ(T)). On both sides of the switch to the series, and at it.
#[test]
fn the_density_integrates_to_the_chance_of_an_event() {
    for (a, w) in [
        (0.0, 0.0),
        (1.0, 1e-9),
        (1.0, 0.29),
        (1.0, 0.31),
        (0.5, 2.0),
        (2.0, -0.5),
        (1.0, -3.0),
    ] {
        let (end, nodes) = (3.0, 3000);
        let d: Vec<f64> = (0..=nodes).map(|i| end * i as f64 / nodes as f64).collect();
        let f: Vec<f64> = density(DType::F64, a, w, &d)
            .iter()
            .map(|x| x.exp())
            .collect();
        let inner: f64 = (1..nodes)
            .map(|i| f[i] * if i % 2 == 1 { 4.0 } else { 2.0 })
            .sum();
        let integral = (f[0] + inner + f[nodes]) * end / nodes as f64 / 3.0;
        let x: f64 = w * end;
        let hazard = a.exp() * end * if x == 0.0 { 1.0 } else { x.exp_m1() / x };
        let expected = -(-hazard).exp_m1();
        assert!(
            (integral - expected).abs() < 1e-9,
            "a {a}, w {w}: {integral}, expected {expected}"
        );
    }
}

/// ∂/∂w and ∂/∂a of log f against central differences in doubles, at and around zero and the switch.
#[test]
fn the_density_has_the_right_gradient() {
    let device = Device::flex().autodiff();
    for (a, w, d) in [
        (1.0, 0.0, 0.7),
        (1.0, 1e-7, 0.7),
        (0.3, 0.4285, 0.7),
        (0.3, 0.4287, 0.7),
        (2.0, -1.5, 0.9),
    ] {
        let leaf = |x: f64| {
            Tensor::<1>::from_data(TensorData::new(vec![x], [1]), (&device, DType::F64))
                .require_grad()
        };
        let (ta, tw, td) = (leaf(a), leaf(w), leaf(d));
        let grads = log_density(ta.clone(), tw.clone(), td).sum().backward();
        let read = |t: &Tensor<1>| {
            t.grad(&grads)
                .unwrap()
                .into_data()
                .iter::<f64>()
                .next()
                .unwrap()
        };
        let h = 1e-4;
        let f = |a: f64, w: f64| density(DType::F64, a, w, &[d])[0];
        // Fourth-order differences: error h⁴ f⁽⁵⁾/30, below 1e-14 here, and rounding of 1e-16/h.
        let slope = |g: &dyn Fn(f64) -> f64| {
            (8.0 * (g(h) - g(-h)) - (g(2.0 * h) - g(-2.0 * h))) / (12.0 * h)
        };
        let (da, dw) = (slope(&|e| f(a + e, w)), slope(&|e| f(a, w + e)));
        assert!(
            (read(&ta) - da).abs() < 1e-9,
            "∂a at {a}, {w}, {d}: {} {da}",
            read(&ta)
        );
        assert!(
            (read(&tw) - dw).abs() < 1e-9,
            "∂w at {a}, {w}, {d}: {} {dw}",
            read(&tw)
        );
    }
}

/// Closed forms: e^−a for w = 0; e E₁(1) = 0.596347362323194 for a = 0, w = 1 (Abramowitz & Stegun, table 5.1); and, for any
/// w, ∫ s f(s) ds by brute force.
#[test]
fn mean_intervals_are_those_of_the_density() {
    for a in [-2.0, 0.0, 7.0] {
        assert!(
            (mean_interval(a, 0.0) / (-a).exp() - 1.0).abs() < 1e-5,
            "{a}"
        );
    }
    assert!((mean_interval(0.0, 1.0) - 0.596_347_362_323_194).abs() < 1e-6);
    for (a, w, far) in [
        (0.0, 0.5, 12.0),
        (1.0, 5.0, 6.0),
        (3.0, -0.2, 12.0),
        (1.0, -2.0, 12.0),
        (0.0, -0.7, 40.0),
        (6.7, -1.7, 1.0),
        (10.0, -3000.0, 0.02),
    ] {
        let nodes = 400_000;
        let step = far / nodes as f64;
        let (mut mean, mut mass, mut partial) = (0.0, 0.0, 0.0);
        for i in 0..nodes {
            let s = (i as f64 + 0.5) * step;
            let f = by_definition(a, w, s).exp() * step;
            mean += s * f;
            mass += f;
            if i < nodes / 20 {
                partial += s * f;
            }
        }
        let expected = mean / mass;
        let got = mean_interval(a, w);
        assert!(
            (got / expected - 1.0).abs() < 2e-4,
            "a {a}, w {w}: {got}, expected {expected}"
        );
        let got = partial_mean(a, w, far / 20.0);
        assert!(
            (got / partial - 1.0).abs() < 2e-4,
            "a {a}, w {w}, up to {}: {got}, expected {partial}",
            far / 20.0
        );
    }
}

/// What the predictions' likelihood says is what the loss says, whatever the chunks.
#[test]
fn quality_agrees_with_the_loss() {
    let marks = "1 2 2 1 2 1 1 2\n2 1 1 2 2\n1 1 2 1 2 2\n";
    let times = "0 0.1 0.4 0.4 0.9 1.0 1.5 1.6\n0 0.3 0.5 0.6 0.7\n2 2.5 2.6 3 3.5 3.6\n";
    let source = events(marks, times).unwrap().parallel();
    let device = Device::flex().autodiff();
    device.seed(3);
    let model = EventModel::new(2, 6, 2, &device).unwrap().valid();
    let device = Device::flex();
    let loss = evaluate(&model, &source, 3, &device).unwrap();
    assert_eq!(loss.count, 16);
    for chunk in [1, 2, 100] {
        let quality = predict::evaluate(&model, &source, chunk, &device).unwrap();
        assert!((quality.nll - loss.sum / 16.0).abs() < 1e-6);
        assert!(quality.rmse > 0.0 && quality.rmse.is_finite());
        assert!((0.0..=1.0).contains(&quality.error) && (16.0 * quality.error).fract() < 1e-9);
    }
}

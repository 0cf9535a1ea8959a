use std::fs;

use super::*;

/// The figure of a run, by its points.
fn figure_of(
    path: impl AsRef<Path>,
    rows: &[EpochRow],
    estimates: &[EstimateRow],
    delta: Option<f64>,
) -> Result<(), PlotError> {
    report_figure(path.as_ref(), rows, estimates, delta, None)
}

fn row(epoch: usize, train: f64, valid: f64, k: f64, bias: f64) -> EpochRow {
    EpochRow {
        epoch,
        train_perplexity: train,
        valid_perplexity: valid,
        k,
        relative_bias: bias,
    }
}

/// Draws into a temporary file and returns the size that the PNG header states.
fn drawn(draw: impl FnOnce(&std::path::Path) -> Result<(), PlotError>) -> (u32, u32) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("not/yet/there/figure.png");
    draw(&path).unwrap();
    let bytes = fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n");
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

fn profile<'a>(mean: &'a [f64], bias: &'a [(usize, f64)]) -> LagProfileFigure<'a> {
    LagProfileFigure {
        title: "probe",
        mean,
        sequences: &[],
        tau: 1,
        beta: Some(0.9),
        bias,
        delta: 0.5,
        k: 1,
    }
}

#[test]
fn a_training_figure_is_a_png_of_the_stated_size() {
    let rows: Vec<_> = (1..=12)
        .map(|e| {
            row(
                e,
                900.0 / e as f64,
                800.0 / e as f64 + 20.0,
                100.0 - e as f64,
                0.6 / e as f64,
            )
        })
        .collect();
    assert_eq!(
        drawn(|path| figure_of(path, &rows, &[], Some(0.5))),
        (1200, 1020)
    );
}

/// Odd data draw something and never panic: one point, all equal, all missing, extremes, epochs out of order.
#[test]
fn training_figures_survive_any_numbers() {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let cases = [
        vec![row(0, 5.0, 6.0, 10.0, 0.1)],
        vec![row(1, 5.0, 5.0, 10.0, 0.5), row(2, 5.0, 5.0, 10.0, 0.5)],
        vec![row(1, nan, nan, nan, nan)],
        vec![
            row(1, inf, -inf, inf, nan),
            row(2, nan, 3.0, 4.0, inf),
            row(3, 2.0, nan, 5.0, 0.1),
        ],
        vec![
            row(1, f64::MAX, f64::MIN, f64::MAX, f64::MIN_POSITIVE),
            row(2, -f64::MAX, 1e-320, 0.0, f64::MAX),
        ],
        vec![
            row(usize::MAX, 1.0, 2.0, 3.0, 0.1),
            row(0, 2.0, 1.0, 3.0, 0.2),
        ],
        vec![row(3, 0.0, 0.0, 0.0, 0.0), row(1, -1.0, 0.0, 0.0, 0.0)],
    ];
    let estimate = |epoch, k, relative_bias, lower, upper| EstimateRow {
        epoch,
        k,
        relative_bias,
        lower,
        upper,
    };
    let odd = [
        estimate(0.5, 3.0, 0.2, 0.1, 0.4),
        estimate(nan, inf, nan, 0.4, 0.1),
        estimate(1.5, 4.0, 0.1, nan, 0.4),
        estimate(-f64::MAX, f64::MAX, 1e-320, -inf, inf),
    ];
    for (rows, estimates) in
        cases
            .into_iter()
            .zip([&odd[..], &odd[..1], &odd, &[], &odd[3..], &odd, &[]])
    {
        for delta in [
            None,
            Some(0.5),
            Some(nan),
            Some(-inf),
            Some(0.0),
            Some(f64::MAX),
        ] {
            drawn(|path| figure_of(path, &rows, estimates, delta));
        }
    }
}

#[test]
fn lag_profile_figures_survive_any_numbers() {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let norms: Vec<f64> = (0..50).map(|k| 0.8_f64.powi(k)).collect();
    let bias: Vec<(usize, f64)> = (1..60).map(|k| (k, 3.0 * 0.8_f64.powi(k as i32))).collect();
    let plain = profile(&norms, &bias);
    let (missing, unknown, far) = ([(1, inf), (2, nan)], [nan, inf, -1.0], [(usize::MAX, 0.5)]);
    let ragged = [vec![], vec![nan, 0.0, inf], norms.clone()];
    let cases = [
        plain,
        LagProfileFigure {
            sequences: &ragged,
            ..plain
        },
        LagProfileFigure {
            title: &"a very long title with δ ".repeat(40),
            ..plain
        },
        LagProfileFigure {
            title: "\n\t",
            ..plain
        },
        LagProfileFigure {
            tau: 1_000,
            k: 2_000,
            ..plain
        },
        LagProfileFigure {
            tau: 30,
            k: 31,
            ..plain
        },
        LagProfileFigure {
            beta: None,
            delta: nan,
            ..plain
        },
        LagProfileFigure {
            beta: Some(1e9),
            delta: 0.0,
            ..plain
        },
        LagProfileFigure {
            beta: Some(-inf),
            delta: inf,
            k: 0,
            tau: 0,
            ..plain
        },
        profile(&[1.0], &[]),
        profile(&[0.0, 0.0], &missing),
        profile(&unknown, &far),
        profile(&[5.0; 4], &[(2, 0.5), (1, 0.5)]),
        profile(
            &[f64::MAX, f64::MIN_POSITIVE, 5e-324],
            &[(1, f64::MAX), (2, 5e-324)],
        ),
    ];
    for figure in cases {
        assert_eq!(drawn(|path| lag_profile_figure(path, &figure)), (1200, 960));
    }
}

#[test]
fn nothing_to_draw_and_unusable_paths_are_typed_errors() {
    let folder = tempfile::tempdir().unwrap();
    let png = folder.path().join("figure.png");
    assert!(matches!(
        training_figure(&png, &[], &[], None),
        Err(PlotError::Empty { what: "epoch" })
    ));
    assert!(matches!(
        lag_profile_figure(&png, &profile(&[], &[])),
        Err(PlotError::Empty { what: "lag" })
    ));
    let rows = [row(1, 2.0, 2.0, 1.0, 0.1)];
    for name in ["figure.jpg", "figure", "png"] {
        let found = figure_of(folder.path().join(name), &rows, &[], None);
        assert!(matches!(found, Err(PlotError::NotPng { .. })), "{found:?}");
    }
    fs::write(folder.path().join("file"), "in the way").unwrap();
    let found = figure_of(folder.path().join("file/figure.png"), &rows, &[], None);
    assert!(matches!(found, Err(PlotError::Write { .. })), "{found:?}");
    fs::create_dir(&png).unwrap();
    let found = figure_of(&png, &rows, &[], None);
    assert!(matches!(found, Err(PlotError::Write { .. })), "{found:?}");
}

/// Three rows of legend, a panel without a finite value, lines of one point: drawn all the same.
#[test]
fn lines_figures_survive_any_numbers() {
    let line = |name: &str, points: &[(f64, f64)], dashed| {
        let line = Line::new(name, points.to_vec());
        if dashed { line.dashed() } else { line }
    };
    let panel = |lines| LinesPanel {
        title: "y".into(),
        x: "x".into(),
        lines,
    };
    let many = (0..12)
        .map(|n| {
            line(
                &format!("a rather long name, number {n}"),
                &[(0.0, f64::from(n)), (1.5, 3.0)],
                n % 2 == 0,
            )
        })
        .collect();
    let odd = vec![
        line("", &[(f64::NAN, 1.0), (1.0, f64::INFINITY)], false),
        line("one", &[(3.0, 1e300)], false).with_band(vec![
            (3.0, -1.0, f64::INFINITY),
            (f64::NAN, 0.0, 1.0),
            (2.9, f64::NAN, 1.0),
            (3.1, 1.0, -1.0),
            (3.2, -f64::INFINITY, 0.0),
        ]),
        line("none", &[], true),
    ];
    let panels = [panel(many), panel(odd), panel(Vec::new())];
    let (width, height) = drawn(|path| lines_figure(path, "Lines", &panels));
    assert!(width == 1200 && height > 1000);
    let one = drawn(|path| lines_figure(path, "", &panels[2..]));
    assert!(one.1 < 500);
}

#[test]
fn a_panel_whose_line_counts_from_zero_has_a_linear_axis_with_zero_on_it() {
    let flow = Line::new("flow", vec![(1.0, 0.1), (2.0, 40.0)]);
    let panel = |line| LinesPanel {
        lines: vec![line],
        ..LinesPanel::default()
    };
    let holds_zero = |line| lines::y_scale(&panel(line)).unwrap().holds(0.0);
    assert!(holds_zero(flow.clone().with_zero()));
    // Without it, the axis is logarithmic.
    assert!(!holds_zero(flow));
}

/// A spike of a hundred times the rest: the axis is that of the rest, and a triangle at its end says where the spike goes.
#[test]
fn values_beyond_the_limits_of_a_line_are_marked_and_do_not_stretch_the_axis() {
    let line = |spike| Line::new("score", vec![(1.0, 0.2), (2.0, spike), (3.0, 0.8)]);
    let panel = |line| LinesPanel {
        lines: vec![line],
        ..LinesPanel::default()
    };
    let holds = |line, y| lines::y_scale(&panel(line)).unwrap().holds(y);
    assert!(holds(line(-60.0), -60.0));
    let limited = line(-60.0).with_limits(0.1, 0.9);
    for (y, held) in [
        (0.1, true),
        (0.8, true),
        (-0.1, false),
        (1.0, false),
        (-60.0, false),
    ] {
        assert_eq!(holds(limited.clone(), y), held, "{y}");
    }
    let colored = |line| {
        let sheet = lines::draw("", &[panel(line)]).unwrap();
        let color = lines::COLORS[0];
        let pixels = sheet.pixels.chunks_exact(3);
        pixels
            .filter(|pixel| *pixel == [color.0, color.1, color.2])
            .count()
    };
    // The same curve with and without a triangle, of 26 by 22 pixels before they are averaged; a dot covers some of it.
    let (below, at) = (colored(limited), colored(line(0.1).with_limits(0.1, 0.9)));
    assert!((140..=286).contains(&(below - at)), "{below} and {at}");
    // A score that can be negative has a linear axis, whatever the limits leave of it.
    let wide = |spike| line(spike).with_limits(0.01, 0.8);
    assert!(!holds(wide(-60.0), 1.0) && holds(wide(-60.0), 0.0));
    assert!(!holds(wide(0.01), 0.0), "logarithmic");
    // Limits that say nothing are none.
    assert_eq!(line(-60.0).with_limits(0.9, 0.1), line(-60.0));
    assert_eq!(line(-60.0).with_limits(f64::NAN, 0.1), line(-60.0));
}

#[test]
fn a_lines_figure_needs_a_panel() {
    let error = lines_figure("x.png", "t", &[]).unwrap_err();
    assert!(matches!(error, PlotError::Empty { what: "panel" }));
}

/// A single point marks a place on another line, whose own points must not hide it.
#[test]
fn a_mark_is_seen_on_the_line_that_it_lies_on() {
    let line = Line::new("line", vec![(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]);
    let seen = |y: f64| {
        let panel = LinesPanel {
            lines: vec![line.clone(), Line::new("mark", vec![(2.0, y)])],
            ..LinesPanel::default()
        };
        let sheet = lines::draw("", &[panel]).unwrap();
        let color = lines::COLORS[1];
        let pixels = sheet.pixels.chunks_exact(3);
        pixels
            .filter(|pixel| *pixel == [color.0, color.1, color.2])
            .count()
    };
    let (on, beside) = (seen(2.0), seen(3.0));
    assert!(10 * on >= 9 * beside, "{on} of {beside} pixels");
}

//! The `series` example and its small relatives as a user meets them.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::programs::{command, data, example, failure, success};

/// A small run.
fn series(program: &Path, options: &[&str]) -> Command {
    let mut command = command(program);
    command.args([
        "--hidden", "6", "--window", "20", "--losses", "8", "--k0", "10", "--k-max", "30",
    ]);
    command.args(options);
    command
}

/// Rows of a CSV file without its header.
fn rows(path: &Path) -> Vec<Vec<String>> {
    let mut reader = csv::Reader::from_path(path).unwrap();
    let rows = reader
        .records()
        .map(|row| row.unwrap().iter().map(str::to_owned).collect());
    rows.collect()
}

fn is_png(path: &Path) -> bool {
    fs::read(path).unwrap().starts_with(b"\x89PNG\r\n\x1a\n")
}

#[test]
fn the_cascaded_tanks_are_trained_on_forecast_and_drawn() {
    let (Some(program), Some(folder)) = (example("series"), data("tanks")) else {
        return;
    };
    let run = tempfile::tempdir().unwrap();
    let file = folder.join("dataBenchmark.csv");
    let out = series(
        &program,
        &[
            "--input", "uEst", "--target", "yEst", "--epochs", "2", "--data",
        ],
    )
    .arg(&file)
    .arg("--out")
    .arg(run.path())
    .output()
    .unwrap();
    let said = success(&out);
    assert!(
        said.contains("1024 steps, of them 717 for training"),
        "{said}"
    );
    assert!(said.contains("test error (RMSE) yEst "), "{said}");
    let forecast = rows(&run.path().join("forecast.csv"));
    assert_eq!(forecast.len(), 1024);
    let parts = |part: &str| forecast.iter().filter(|row| row[2] == part).count();
    assert_eq!(
        [parts("training"), parts("validation"), parts("test")],
        [717, 153, 154]
    );
    // In the units of the file: its second row of levels.
    assert_eq!(forecast[1][1..4], ["2", "training", "yEst"]);
    assert!((forecast[1][4].parse::<f64>().unwrap() - 5.2154).abs() < 1e-5);
    assert!(
        forecast
            .iter()
            .all(|row| row[5].parse::<f64>().unwrap().is_finite())
    );
    assert!(is_png(&run.path().join("forecast.png")) && is_png(&run.path().join("report.png")));
    let normalisation = fs::read_to_string(run.path().join("model/normalisation.json")).unwrap();
    let normalisation: atbptt::train::data::Normalisation =
        serde_json::from_str(&normalisation).unwrap();
    assert_eq!(
        (normalisation.inputs.len(), normalisation.targets.len()),
        (1, 1)
    );

    // The trained model forecasts alone: no data of the run, no column of targets.
    let Some(generate) = example("generate") else {
        return;
    };
    let alone = tempfile::tempdir().unwrap();
    let model = alone.path().join("model");
    fs::rename(run.path().join("model"), &model).unwrap();
    let inputs = fs::read_to_string(&file).unwrap();
    let mut table = csv::Reader::from_reader(inputs.as_bytes());
    let column = table
        .headers()
        .unwrap()
        .iter()
        .position(|name| name == "uEst");
    let column = column.unwrap();
    let values = table.records().map(|row| row.unwrap()[column].to_owned());
    let only: Vec<String> = std::iter::once("uEst".to_owned()).chain(values).collect();
    fs::write(alone.path().join("new.csv"), only.join("\n")).unwrap();
    let mut forecast_again = command(&generate);
    forecast_again
        .current_dir(alone.path())
        .args(["model", "--series", "new.csv"]);
    let said = success(&forecast_again.output().unwrap());
    let lines: Vec<&str> = said.trim_end().lines().collect();
    assert_eq!((lines[0], lines.len()), ("row,yEst", 1025));
    for (line, row) in lines[1..].iter().zip(&forecast) {
        let (at, value) = line.split_once(',').unwrap();
        let apart = value.parse::<f64>().unwrap() - row[5].parse::<f64>().unwrap();
        assert!(at == row[1] && apart.abs() < 1e-4, "{line} and {row:?}");
    }
    let mut other = command(&generate);
    other.arg(&model).arg("--series").arg(folder.join("no.csv"));
    assert!(failure(&other.output().unwrap()).contains("cannot open"));
    let mut as_text = command(&generate);
    let error = failure(&as_text.arg(&model).output().unwrap());
    assert!(error.contains("model is of another kind"), "{error}");
}

#[test]
fn breathing_recordings_with_semicolons_and_decimal_commas_are_forecast_ahead() {
    let (Some(program), Some(folder)) = (example("series"), data("breathing")) else {
        return;
    };
    let run = tempfile::tempdir().unwrap();
    let files = ["201205101519-LAC.csv", "201205101541-LAC.csv"].map(|name| folder.join(name));
    let options = [
        "--delimiter",
        ";",
        "--decimal-comma",
        "--drop-last",
        "1",
        "--input",
        "x,y,z",
        "--target",
        "z",
        "--horizon",
        "5",
        "--loss",
        "gaussian",
        "--learned-start",
        "--epochs",
        "1",
        "--data",
    ];
    let out = series(&program, &options)
        .args(&files)
        .arg("--out")
        .arg(run.path())
        .output()
        .unwrap();
    let said = success(&out);
    assert!(
        said.contains("z from x, y, z of 2 files, 5 rows ahead"),
        "{said}"
    );
    let forecast = rows(&run.path().join("forecast.csv"));
    // 2,220 and 1,307 rows; five of each lie behind the last row of the file.
    assert_eq!(forecast.len(), 2220 + 1307);
    let beyond: Vec<&Vec<String>> = forecast.iter().filter(|row| row[2] == "beyond").collect();
    assert_eq!(beyond.len(), 10);
    assert!(
        beyond
            .iter()
            .all(|row| row[4].is_empty() && row[6].parse::<f64>().unwrap() > 0.0)
    );
    assert_eq!(beyond[4][1], "2225");
    assert!(is_png(&run.path().join("forecast.png")));
}

/// A file of 300 rows: a wave, and its lagged average.
fn small(folder: &Path) -> PathBuf {
    let mut text = String::from("a,b,c\n");
    let mut level = 0.0f64;
    for t in 0..300 {
        let wave = (f64::from(t) * 0.7).sin();
        level = 0.8 * level + wave;
        let c = if t % 5 == 0 {
            String::new()
        } else {
            level.to_string()
        };
        text += &format!("{wave},{level},{c}\n");
    }
    let path = folder.join("small.csv");
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_run_that_goes_on_ends_like_one_that_never_stopped() {
    let Some(program) = example("series") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = small(folder.path());
    let run = |out: &str, epochs: &str| {
        let out = folder.path().join(out);
        let options = [
            "--input", "a", "--target", "b", "--epochs", epochs, "--data",
        ];
        success(
            &series(&program, &options)
                .arg(&file)
                .arg("--out")
                .arg(&out)
                .output()
                .unwrap(),
        );
        out
    };
    let (whole, parts) = (run("whole", "4"), run("parts", "2"));
    let resumed = command(&program)
        .arg("--resume")
        .arg(&parts)
        .args(["--epochs", "4"])
        .output();
    success(&resumed.unwrap());
    let read = |run: &Path| fs::read(run.join("forecast.csv")).unwrap();
    assert!(read(&whole) == read(&parts), "another forecast");
}

#[test]
fn missing_targets_are_refused_or_masked_and_errors_name_the_place() {
    let Some(program) = example("series") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = small(folder.path());
    let with = |options: &[&str]| {
        let mut command = series(&program, &["--epochs", "1"]);
        command
            .args(options)
            .arg("--data")
            .arg(&file)
            .arg("--out")
            .arg(folder.path().join("run"));
        command.output().unwrap()
    };
    let error = failure(&with(&["--input", "a", "--target", "c"]));
    assert!(
        error.contains("row 1 (line 2), column \"c\": the value is missing"),
        "{error}"
    );
    let error = failure(&with(&["--input", "a", "--target", "d"]));
    assert!(
        error.contains("no column \"d\"; it has \"a\", \"b\", \"c\""),
        "{error}"
    );
    let error = failure(&with(&[
        "--input",
        "a",
        "--target",
        "b",
        "--delimiter",
        ";;",
    ]));
    assert!(error.contains("--delimiter is one character"), "{error}");
    let error = failure(&with(&[
        "--input", "a", "--target", "b", "--split", "0.9,0.2",
    ]));
    assert!(
        error.contains("shares of training and validation"),
        "{error}"
    );
    assert!(!folder.path().join("run").exists(), "a folder of no run");
    let said = success(&with(&[
        "--input",
        "a",
        "--target",
        "c",
        "--missing-target",
        "mask",
    ]));
    assert!(said.contains("test error (RMSE) c "), "{said}");

    // A mark of the file's own, below a line about the file.
    let text = fs::read_to_string(&file).unwrap().replace(",\n", ",-999\n");
    fs::write(&file, format!("measured by hand\n{text}")).unwrap();
    let marked = ["--input", "a", "--target", "c", "--skip-first", "1"];
    let error = failure(&with(&[&marked[..], &["--missing", "NA,-999"]].concat()));
    assert!(
        error.contains("row 1 (line 3), column \"c\": the value is missing"),
        "{error}"
    );
    let masked = ["--missing", "-999", "--missing-target", "mask"];
    let run = folder.path().join("marked");
    let mut masked = series(
        &program,
        &[&["--epochs", "1"], &marked[..], &masked].concat(),
    );
    masked.arg("--data").arg(&file).arg("--out").arg(&run);
    success(&masked.output().unwrap());
    let forecast = rows(&run.join("forecast.csv"));
    let missing = forecast.iter().filter(|row| row[4].is_empty()).count();
    assert_eq!((forecast.len(), missing), (300, 60));
}

/// A byte order mark, names with commas and blanks, columns without a name and of text, line ends of Windows.
#[test]
fn columns_of_any_name_are_found_and_the_others_may_be_anything() {
    let Some(program) = example("series") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::from("\u{feff}\"Zeit, s\";\"Höhe (m)\";;Druck;\r\n");
    for t in 0..400 {
        let wave = |period: f64| (f64::from(t) / period).sin().to_string().replace('.', ",");
        let pressure = if t % 50 == 7 { "NA".into() } else { wave(9.0) };
        text += &format!("\"{t},0\";{};;{pressure};x\r\n", wave(7.0));
    }
    let file = folder.path().join("odd.csv");
    fs::write(&file, text).unwrap();
    let with = |inputs: &str, out: &str, options: &[&str]| {
        let options = [
            &[
                "--epochs",
                "1",
                "--delimiter",
                ";",
                "--decimal-comma",
                "--input",
                inputs,
            ],
            options,
        ]
        .concat();
        series(&program, &options)
            .args(["--target", "Druck", "--data"])
            .arg(&file)
            .arg("--out")
            .arg(folder.path().join(out))
            .output()
            .unwrap()
    };
    let masked = ["--missing-target", "mask"];
    let said = success(&with("\"Zeit, s\", Höhe (m)", "run", &masked));
    assert!(said.contains("Druck from Zeit, s, Höhe (m) of "), "{said}");
    let error = failure(&with("Zeit, s", "other", &masked));
    assert!(
        error.contains("no column") && error.contains("\"Zeit, s\", \"Höhe (m)\""),
        "{error}"
    );
    let error = failure(&with("Höhe (m)", "other", &[]));
    assert!(
        error.contains("row 8 (line 9), column \"Druck\": the value is missing"),
        "{error}"
    );
}

#[test]
fn the_small_programs_train() {
    for (name, begins) in [
        ("own_data", "epoch"),
        (
            "episodes",
            "24 episodes of 20 to 250 steps in 4 streams: 3240 steps",
        ),
    ] {
        let Some(program) = example(name) else {
            continue;
        };
        let folder = tempfile::tempdir().unwrap();
        let said = success(
            &command(&program)
                .current_dir(folder.path())
                .output()
                .unwrap(),
        );
        assert!(said.starts_with(begins), "{said}");
        assert!(
            folder
                .path()
                .join("runs")
                .join(format!("{name}-1"))
                .join("result.json")
                .is_file()
        );
    }
}

//! The `rainfall` example as a user meets it, with a small basin of the test's own and with the real one.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::programs::{command, data, example, failure, kill_after_checkpoint, success};

/// A small run.
fn rainfall(program: &Path, data: &Path, out: &Path) -> Command {
    let mut command = command(program);
    command.args([
        "--hidden",
        "4",
        "--window",
        "30",
        "--k0",
        "6",
        "--k-max",
        "20",
        "--probes",
        "3",
        "--warm-up",
        "60",
    ]);
    command.arg("--data").arg(data).arg("--out").arg(out);
    command
}

/// Files as CAMELS has them, of the years 1994 to 1999: a tank that rain fills and that empties by a tenth per day. The operational
/// model is the river but for a tenth of its deviation from 2.
fn small_basin(folder: &Path) {
    let mut forcing = String::from(
        "  45.06\n 318.00\n 771486538\nYear Mnth Day Hr dayl(s) prcp(mm/day) srad(W/m2) swe(mm) tmax(C) tmin(C) vp(Pa)\n",
    );
    let mut flows = String::from("YR MNTH DY HR SWE MOD_RUN OBS_RUN\n");
    let mut level = 2.0f64;
    let mut nth = 0u32;
    for year in 1994..2000 {
        let february = if year % 4 == 0 { 29 } else { 28 };
        for (month, days) in (1..).zip([31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
            for day in 1..=days {
                let rain = if (nth * nth) % 7 == 2 { 6.0 } else { 0.0 };
                level = 0.9 * level + 0.1 * rain;
                forcing += &format!(
                    "{year} {month:02} {day:02} 12\t31101.65\t{rain:.2}\t176.19\t0.00\t-3.12\t-13.61\t213.05\n"
                );
                // The gauge begins after a year.
                if year > 1994 {
                    let operational = 2.0 + 0.9 * (level - 2.0);
                    flows += &format!(
                        "{year} {month:02} {day:02} 12   0.0000000   {operational:.7}   {level:.7}\n"
                    );
                }
                nth += 1;
            }
        }
    }
    fs::write(folder.join("01_lump_cida_forcing_leap.txt"), forcing).unwrap();
    fs::write(folder.join("01_05_model_output.txt"), flows).unwrap();
}

#[test]
fn a_small_basin_is_learnt_resumed_and_drawn() {
    let Some(program) = example("rainfall") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    small_basin(folder.path());
    let run = |out: &str, epochs: &str| {
        let out = folder.path().join(out);
        let mut command = rainfall(&program, folder.path(), &out);
        command.args(["--epochs", epochs]);
        (success(&command.output().unwrap()), out)
    };
    let (said, whole) = run("whole", "2");
    assert!(said.contains("daily flow of basin 01"), "{said}");
    assert!(said.contains("chunks of 16 days leave out"), "{said}");
    assert!(said.contains("a tolerance of 0.5 asks for K = "), "{said}");
    let last = said.trim_end().lines().last().unwrap();
    assert!(last.starts_with("test NSE "), "{last}");
    // The operational model's flow is known: 1 − 0.1² of the variance, but for the mean.
    let operational = last.split("operational model's ").nth(1).unwrap();
    let operational: f64 = operational.split(';').next().unwrap().parse().unwrap();
    assert!((0.9..1.0).contains(&operational), "{last}");
    for figure in ["hydrograph.png", "bias.png", "report.png"] {
        let png = fs::read(whole.join(figure)).unwrap();
        assert!(png.starts_with(b"\x89PNG"), "{figure}");
    }
    let flow = fs::read_to_string(whole.join("flow.csv")).unwrap();
    let rows: Vec<&str> = flow.lines().collect();
    assert_eq!(
        (rows[0], rows.len()),
        ("date,observed,simulated,operational", 366)
    );
    assert!(rows[1].starts_with("1999-01-01,") && rows[365].starts_with("1999-12-31,"));
    let result = fs::read_to_string(whole.join("result.json")).unwrap();
    let result: serde_json::Value = serde_json::from_str(&result).unwrap();
    for name in ["valid_nse", "test_nse", "test_rmse", "chunk_bias"] {
        assert!(result["measures"][name].is_f64(), "{name}: {result}");
    }

    // Killed within the run and gone on with: the same flows to the last digit.
    let out = folder.path().join("parts");
    let mut killed = rainfall(&program, folder.path(), &out);
    kill_after_checkpoint(
        killed.args(["--epochs", "2", "--checkpoint-every", "3"]),
        &out,
    );
    let mut resumed = command(&program);
    resumed.arg("--resume").arg(&out);
    success(&resumed.output().unwrap());
    let parts = fs::read_to_string(out.join("flow.csv")).unwrap();
    assert!(parts == flow, "another flow");
}

#[test]
fn missing_files_days_and_columns_are_named_with_the_remedy() {
    let Some(program) = example("rainfall") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let error = || failure(&rainfall(&program, folder.path(), &out).output().unwrap());
    let found = error();
    assert!(
        found.contains("no file *_forcing_leap.txt") && found.contains("RRMPG"),
        "{found}"
    );
    small_basin(folder.path());
    let (forcing, flows) = (
        folder.path().join("01_lump_cida_forcing_leap.txt"),
        folder.path().join("01_05_model_output.txt"),
    );
    let text = fs::read_to_string(&forcing).unwrap();
    let without: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("1995 03 07"))
        .collect();
    fs::write(&forcing, without.join("\n")).unwrap();
    let found = error();
    assert!(
        found.contains("row 431: the day after 1995-03-06 is missing"),
        "{found}"
    );
    fs::write(&forcing, text.replace("prcp(mm/day)", "rain")).unwrap();
    let found = error();
    assert!(found.contains("no column \"prcp(mm/day)\""), "{found}");
    fs::write(&forcing, &text).unwrap();
    fs::remove_file(&flows).unwrap();
    let found = error();
    assert!(found.contains("no file 01*_model_output.txt"), "{found}");
    assert!(!out.exists(), "a folder of no run");
}

#[test]
fn the_operational_model_of_the_real_basin_has_its_known_efficiency() {
    let (Some(program), Some(folder)) = (example("rainfall"), data("camels")) else {
        return;
    };
    let run = tempfile::tempdir().unwrap();
    let out = run.path().join("run");
    let mut command = rainfall(&program, &folder, &out);
    let said = success(&command.args(["--epochs", "1"]).output().unwrap());
    assert!(said.contains("daily flow of basin 01031500"), "{said}");
    assert!(said.contains("the operational model's 0.748"), "{said}");
    let flow = fs::read_to_string(out.join("flow.csv")).unwrap();
    assert_eq!(flow.lines().count(), 1 + 3653);
}

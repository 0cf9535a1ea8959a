//! Reports of a run as files: JSON lines and a table.

use super::RunFolder;
use super::folder::METRICS;
use crate::TrainError;
use crate::report::EpochReport;

/// Columns of the table, before those of the measures.
const COLUMNS: [&str; 14] = [
    "epoch",
    "step",
    "train_loss",
    "valid_loss",
    "k",
    "mean_k",
    "relative_bias",
    "decay",
    "clipped_share",
    "train_seconds",
    "probe_seconds",
    "valid_seconds",
    "elapsed_seconds",
    "reason",
];

/// Writes `metrics.jsonl` and `metrics.csv`.
pub(super) fn write(folder: &RunFolder, reports: &[EpochReport]) -> Result<(), TrainError> {
    let mut lines = String::new();
    for report in reports {
        lines += &super::json(report, false)?;
        lines.push('\n');
    }
    folder.write(METRICS, lines)?;
    folder.write("metrics.csv", table(reports))
}

fn table(reports: &[EpochReport]) -> String {
    let measures: Vec<&str> = reports
        .first()
        .map_or_else(Vec::new, |report| {
            report.measures.keys().collect::<Vec<_>>()
        })
        .into_iter()
        .map(String::as_str)
        .collect();
    let known = |value: Option<f64>| value.map_or_else(String::new, |v| v.to_string());
    let head = COLUMNS.into_iter().chain(measures.iter().copied());
    let mut text = row(head.map(str::to_owned));
    for report in reports {
        let cells = [
            report.epoch.to_string(),
            report.step.to_string(),
            report.train_loss.to_string(),
            known(report.valid_loss),
            report.k.to_string(),
            report.mean_k.to_string(),
            known(report.relative_bias),
            known(report.decay),
            report.clipped_share().to_string(),
            report.train_seconds.to_string(),
            report.probe_seconds.to_string(),
            report.valid_seconds.to_string(),
            report.elapsed_seconds.to_string(),
            report.reason.clone().unwrap_or_default(),
        ];
        let measured = measures
            .iter()
            .map(|name| known(report.measures.get(*name).copied()));
        text += &row(cells.into_iter().chain(measured));
    }
    text
}

/// A line of the table (RFC 4180): cells with a comma, a quote or a line break stand in quotes.
fn row(cells: impl Iterator<Item = String>) -> String {
    let quoted = |cell: String| match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell,
    };
    cells.map(quoted).collect::<Vec<_>>().join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 30 of 40 windows.
    #[test]
    fn the_table_tells_the_share_of_windows_in_which_the_clip_bound() {
        let report = EpochReport {
            windows: 40,
            clipped: 30,
            ..EpochReport::default()
        };
        let table = table(&[report]);
        let cells: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split(',').collect())
            .collect();
        let column = cells[0].iter().position(|name| *name == "clipped_share");
        assert_eq!(column.map(|at| cells[1][at]), Some("0.75"));
    }

    #[test]
    fn cells_with_commas_and_quotes_stay_one_cell() {
        let cells = ["1", "so \"K\", as it is", ""].map(str::to_owned);
        assert_eq!(row(cells.into_iter()), "1,\"so \"\"K\"\", as it is\",\n");
    }
}

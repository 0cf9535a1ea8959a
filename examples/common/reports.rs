//! What a run reported after every epoch, from its folder.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use atbptt::train::EpochReport;

/// The reports in a run's folder; none where it has written none yet.
pub fn read_reports(run: &Path) -> Result<Vec<EpochReport>, String> {
    let path = run.join("metrics.jsonl");
    let shown = path.display();
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(format!("{shown}: {error}")),
    };
    let read = |(nth, line)| {
        serde_json::from_str(line).map_err(|error| format!("{shown}, line {}: {error}", nth + 1))
    };
    text.lines().enumerate().map(read).collect()
}

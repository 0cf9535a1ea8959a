//! Which columns a trained model of series reads and predicts: kept with it, so that `generate` can forecast other files.

use atbptt::train::data::{Missing, TableOptions};
use serde::{Deserialize, Serialize};

/// Name of the file beside the model.
pub const FILE: &str = "columns.json";

/// Columns of the CSV files that a model was trained on, and how these are written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Columns {
    pub inputs: Vec<String>,
    pub targets: Vec<String>,
    /// Rows ahead that targets lie.
    pub horizon: usize,
    pub options: TableOptions,
    pub missing_inputs: Missing,
}

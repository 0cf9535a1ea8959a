//! How a CSV file is written, and what becomes of missing values.

use serde::{Deserialize, Serialize};

/// How a CSV file is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableOptions {
    /// Between columns: `,`, `;`, a tabulator or any other ASCII character. A blank stands for any number of blanks and tabulators, as
    /// in columns that are lined up; those before the first column do not count.
    pub delimiter: char,
    /// Whether decimals are written `3,14`.
    pub decimal_comma: bool,
    /// Whether the first row names the columns; else they are called `1`, `2`, ….
    pub header: bool,
    /// What stands for a missing value, besides nothing at all; blanks around it and upper or lower case do not matter.
    pub missing: Vec<String>,
    /// Rows left out at the end, such as a line of zeros that closes a recording.
    #[serde(default)]
    pub drop_last: usize,
    /// Lines left out at the beginning, before the header: what a file says of itself.
    #[serde(default)]
    pub skip_first: usize,
}

impl Default for TableOptions {
    /// Commas, decimal points, a header; `NA`, `NaN`, `null`, `?` and nothing are missing values.
    fn default() -> Self {
        Self {
            delimiter: ',',
            decimal_comma: false,
            header: true,
            missing: ["NA", "NaN", "null", "?"].map(str::to_owned).into(),
            drop_last: 0,
            skip_first: 0,
        }
    }
}

impl TableOptions {
    /// Another delimiter.
    pub fn with_delimiter(mut self, delimiter: char) -> Self {
        self.delimiter = delimiter;
        self
    }

    /// Whether decimals are written `3,14`.
    pub fn with_decimal_comma(mut self, decimal_comma: bool) -> Self {
        self.decimal_comma = decimal_comma;
        self
    }

    /// Whether the first row names the columns.
    pub fn with_header(mut self, header: bool) -> Self {
        self.header = header;
        self
    }

    /// What stands for a missing value.
    pub fn with_missing(mut self, missing: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.missing = missing.into_iter().map(Into::into).collect();
        self
    }

    /// Rows left out at the end.
    pub fn with_drop_last(mut self, rows: usize) -> Self {
        self.drop_last = rows;
        self
    }

    /// Lines left out at the beginning, before the header.
    pub fn with_skip_first(mut self, lines: usize) -> Self {
        self.skip_first = lines;
        self
    }
}

/// What to do about a missing value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Missing {
    /// End with an error that names row and column.
    #[default]
    Refuse,
    /// The last value before it that is not missing.
    CarryForward,
    /// Targets: no loss is counted there. Inputs cannot be left out: they are refused.
    Mask,
}

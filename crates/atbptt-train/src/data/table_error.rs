//! What can be wrong with a table, said with its place: row, line and column.

/// What is wrong with a table. Rows are counted from 1 below the header; lines are those of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The file cannot be opened.
    #[error("cannot open {origin}: {cause}; check that the path exists and is permitted")]
    Open {
        /// The file.
        origin: String,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// The file is not CSV, or has rows of different lengths.
    #[error(
        "{origin}, row {row} (line {line}): {reason}; every row needs the same columns, and text must be UTF-8"
    )]
    Malformed {
        /// The file.
        origin: String,
        /// Row below the header.
        row: u64,
        /// Line of the file.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// A column that is asked for does not exist.
    #[error("{origin} has no column {column:?}; it has {}{hint}", listed(found))]
    NoColumn {
        /// The file.
        origin: String,
        /// The name asked for.
        column: String,
        /// The names there are.
        found: Vec<String>,
        /// A guess at the reason, as a clause; may be empty.
        hint: &'static str,
    },
    /// A column that is asked for exists more than once.
    #[error("{origin} has more than one column {column:?}; rename all but one")]
    AmbiguousColumn {
        /// The file.
        origin: String,
        /// The name.
        column: String,
    },
    /// A value is no number, or none that fits 32 bits.
    #[error(
        "{origin}, row {row} (line {line}), column {column:?}: {found:?} is no finite number{hint}"
    )]
    NotANumber {
        /// The file.
        origin: String,
        /// Row below the header.
        row: u64,
        /// Line of the file.
        line: u64,
        /// Name of the column.
        column: String,
        /// What stands there.
        found: String,
        /// A guess at the reason, as a clause; may be empty.
        hint: &'static str,
    },
    /// A value is missing where it must not be.
    #[error("{origin}, row {row} (line {line}), column {column:?}: the value is missing; {remedy}")]
    MissingValue {
        /// The file.
        origin: String,
        /// Row below the header.
        row: u64,
        /// Line of the file.
        line: u64,
        /// Name of the column.
        column: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The file has no row of values.
    #[error(
        "{origin} has no row of values, row 1 is missing; check the file and the number of rows left out at its end"
    )]
    NoRows {
        /// The file.
        origin: String,
    },
    /// A setting of the reader is out of its range.
    #[error("{what} must be {rule}, got {got:?}")]
    Setting {
        /// The setting.
        what: &'static str,
        /// Its range.
        rule: &'static str,
        /// What was given.
        got: String,
    },
    /// A forecast reaches further than the table.
    #[error(
        "{origin} has {rows} rows, too few to predict {horizon} rows ahead; take a shorter horizon"
    )]
    Horizon {
        /// The file.
        origin: String,
        /// Rows of the table.
        rows: usize,
        /// Rows ahead.
        horizon: usize,
    },
}

/// Names in words, not too many of them.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let shown: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("{:?}", short(name)))
        .collect();
    match names.len() {
        0 => "none".into(),
        more if more > SHOWN => format!("{}, … ({more} columns)", shown.join(", ")),
        _ => shown.join(", "),
    }
}

/// A name or value as a message has room for it.
pub(super) fn short(text: &str) -> String {
    const MOST: usize = 40;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => text.get(..end).unwrap_or_default().to_owned() + "…",
        None => text.to_owned(),
    }
}

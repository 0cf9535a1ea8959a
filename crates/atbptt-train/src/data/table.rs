//! Tables of numbers from CSV files: columns by name, missing values by rule, every error with row and column.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::error::beginning;
use super::series::Series;
use super::table_error::TableError;
use super::table_options::{Missing, TableOptions};
use super::table_reader::Reading;

/// Some columns of a CSV file, as numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    origin: String,
    columns: Vec<String>,
    /// Row-major `[rows, columns]`; NaN where a value is missing.
    values: Vec<f64>,
    /// Line of the file at which each row begins.
    lines: Vec<u64>,
}

impl Table {
    /// Reads the named columns of a file; what stands in the others does not matter.
    ///
    /// # Errors
    ///
    /// [`TableError`], with row and column.
    pub fn from_path(
        path: impl AsRef<Path>,
        columns: &[impl AsRef<str>],
        options: &TableOptions,
    ) -> Result<Self, TableError> {
        let path = path.as_ref();
        let origin = path.display().to_string();
        let file = File::open(path).map_err(|cause| TableError::Open {
            origin: origin.clone(),
            cause,
        })?;
        Self::from_reader(file, &origin, columns, options)
    }

    /// [`from_path`](Self::from_path) from anywhere; `origin` names it in errors.
    ///
    /// ```
    /// use atbptt_train::data::{Missing, Table, TableOptions};
    ///
    /// let text = "time;flow;level\n0;0,5;\n1;0,7;2,25\n";
    /// let options = TableOptions::default().with_delimiter(';').with_decimal_comma(true);
    /// let table = Table::from_reader(text.as_bytes(), "a text", &["level", "flow"], &options)?;
    /// assert_eq!((table.rows(), table.value(1, 0)), (2, Some(2.25)));
    /// // The first level is missing: it is no target.
    /// let series = table.series(&["flow"], &["level"], 0, Missing::Refuse, Missing::Mask)?;
    /// assert!(series.targets()[0].is_nan());
    /// # Ok::<(), atbptt_train::data::TableError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`from_path`](Self::from_path).
    pub fn from_reader(
        reader: impl Read,
        origin: &str,
        columns: &[impl AsRef<str>],
        options: &TableOptions,
    ) -> Result<Self, TableError> {
        let mut reading = Reading::new(reader, origin, options)?;
        let asked: Vec<&str> = columns.iter().map(AsRef::as_ref).collect();
        let mut table = Self {
            origin: origin.to_owned(),
            columns: asked.iter().map(|name| (*name).to_owned()).collect(),
            values: Vec::new(),
            lines: Vec::new(),
        };
        let places = reading.places(&asked)?;
        while let Some((row, line)) = reading.next()? {
            table.lines.push(line);
            for (&place, name) in places.iter().zip(&asked) {
                table.values.push(reading.number(place, name, row, line)?);
            }
        }
        let rows = table.lines.len().saturating_sub(options.drop_last);
        table.lines.truncate(rows);
        table.values.truncate(rows * table.columns.len());
        match rows {
            0 => Err(TableError::NoRows {
                origin: origin.to_owned(),
            }),
            _ => Ok(table),
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.lines.len()
    }

    /// Names of the columns that were asked for.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The value in row and column, both counted from zero; `None` where it is missing or there is no such place.
    pub fn value(&self, row: usize, column: usize) -> Option<f64> {
        let within = column < self.columns.len();
        let at = row.checked_mul(self.columns.len())?.checked_add(column)?;
        let value = self.values.get(at).filter(|_| within)?;
        (!value.is_nan()).then_some(*value)
    }

    /// Inputs and targets, by the names of columns that were read: at step t the inputs of row t, and the targets of row
    /// t + `horizon`. With a horizon, the last steps have inputs and no targets: the data do not say what follows.
    ///
    /// # Errors
    ///
    /// [`TableError::NoColumn`], [`TableError::MissingValue`], [`TableError::Horizon`].
    pub fn series(
        &self,
        inputs: &[impl AsRef<str>],
        targets: &[impl AsRef<str>],
        horizon: usize,
        missing_inputs: Missing,
        missing_targets: Missing,
    ) -> Result<Series, TableError> {
        let rows = self.rows();
        if horizon >= rows {
            return Err(TableError::Horizon {
                origin: self.origin.clone(),
                rows,
                horizon,
            });
        }
        let input_values = self.filled(inputs, missing_inputs, true)?;
        let ahead = self.filled(targets, missing_targets, false)?;
        let mut target_values: Vec<f32> = ahead
            .get(horizon * targets.len()..)
            .unwrap_or_default()
            .to_vec();
        target_values.resize(rows * targets.len(), f32::NAN);
        let series = Series::new(input_values, inputs.len(), target_values, targets.len());
        // All that `Series` asks for is seen to, apart from the number of columns.
        series.map_err(|_| TableError::Setting {
            what: "inputs and targets",
            rule: "one column or more of each",
            got: format!("{} inputs, {} targets", inputs.len(), targets.len()),
        })
    }

    /// Columns that were read, by name, row-major `[rows, columns]`, such as the inputs of a model that is there already. Missing
    /// values are refused or carried forward.
    ///
    /// # Errors
    ///
    /// [`TableError::NoColumn`], [`TableError::MissingValue`].
    pub fn inputs(
        &self,
        names: &[impl AsRef<str>],
        missing: Missing,
    ) -> Result<Vec<f32>, TableError> {
        self.filled(names, missing, true)
    }

    /// The named columns, row-major, missing values filled as `rule` says.
    fn filled(
        &self,
        names: &[impl AsRef<str>],
        rule: Missing,
        inputs: bool,
    ) -> Result<Vec<f32>, TableError> {
        let places: Vec<(usize, &str)> = names
            .iter()
            .map(|name| {
                let name = name.as_ref();
                let place = self.columns.iter().position(|column| column == name);
                let place = place.ok_or_else(|| TableError::NoColumn {
                    origin: self.origin.clone(),
                    column: beginning(name),
                    found: self.columns.clone(),
                    hint: "; read the column with the table",
                })?;
                Ok((place, name))
            })
            .collect::<Result<_, TableError>>()?;
        let mut filled: Vec<f32> = Vec::with_capacity(self.rows() * places.len());
        for row in 0..self.rows() {
            for &(column, name) in &places {
                let missing = |remedy| TableError::MissingValue {
                    origin: self.origin.clone(),
                    row: row as u64 + 1,
                    line: self.lines.get(row).copied().unwrap_or(0),
                    column: beginning(name),
                    remedy,
                };
                let before = filled.len().checked_sub(places.len());
                let value = match (self.value(row, column), rule) {
                    (Some(value), _) => value as f32,
                    (None, Missing::Refuse) if inputs => {
                        return Err(missing("fill it in, or carry the value before it forward"));
                    }
                    (None, Missing::Refuse) => {
                        return Err(missing(
                            "fill it in, carry the value before it forward, or mask it: no loss is counted there then",
                        ));
                    }
                    (None, Missing::CarryForward) => {
                        let before = before.and_then(|at| filled.get(at).copied());
                        before.ok_or_else(|| {
                            missing("no value stands before it to carry forward; fill it in")
                        })?
                    }
                    (None, Missing::Mask) if inputs => {
                        return Err(missing(
                            "only targets can be masked; fill it in, or carry the value before it forward",
                        ));
                    }
                    (None, Missing::Mask) => f32::NAN,
                };
                filled.push(value);
            }
        }
        Ok(filled)
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;

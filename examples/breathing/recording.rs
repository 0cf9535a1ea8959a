//! A recording: three markers on a breathing chest, ten times a second, in millimetres.

use std::fs;
use std::path::Path;

use atbptt::train::data::{DataError, Missing, Series, Table, TableOptions};

use crate::common::Result;

/// Samples per second.
pub const RATE: f64 = 10.0;
/// Steps ahead that are forecast: 0.1 to 2.1 seconds.
pub const AHEAD: usize = 21;
/// Coordinates of a step: x, y and z of three markers.
pub const COORDINATES: usize = 9;
/// Steps back that moves are told over.
const LAGS: [usize; 5] = [1, 2, 4, 8, 16];
/// Inputs of a step: every coordinate, and its moves.
pub const INPUTS: usize = COORDINATES * (1 + LAGS.len());
const MARKERS: [&str; 3] = ["LAC", "UAC", "UCC"];

/// Positions that follow each other.
#[derive(Clone, Debug)]
pub struct Recording {
    /// As the files begin, such as `201205101519`.
    pub name: String,
    /// Row-major `[steps, coordinates]`, in mm.
    pub positions: Vec<f32>,
}

impl Recording {
    /// Names of the recordings in a folder.
    pub fn names(folder: &Path) -> Result<Vec<String>> {
        const WHERE: &str = "the recordings (CC BY 4.0) come with \
                             https://github.com/pohl-michel/time-series-forecasting-with-UORO-RTRL-LMS-and-linear-regression: name \
                             their folder with --data";
        let files = fs::read_dir(folder)
            .map_err(|error| format!("cannot read {}: {error}; {WHERE}", folder.display()))?;
        let mut names: Vec<String> = files
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|file| Some(file.strip_suffix("-LAC.csv")?.to_owned()))
            .collect();
        names.sort();
        match names.is_empty() {
            true => Err(format!("{} has no file *-LAC.csv; {WHERE}", folder.display()).into()),
            false => Ok(names),
        }
    }

    /// Reads the three files of a recording.
    pub fn read(folder: &Path, name: &str) -> Result<Self> {
        // A row of zeros closes each file.
        let options = TableOptions::default()
            .with_delimiter(';')
            .with_decimal_comma(true)
            .with_drop_last(1);
        let columns = ["x", "y", "z"];
        let read = |marker: &&str| -> Result<Vec<f32>> {
            let path = folder.join(format!("{name}-{marker}.csv"));
            let table = Table::from_path(path, &columns, &options)?;
            Ok(table.inputs(&columns, Missing::Refuse)?)
        };
        let markers: Vec<Vec<f32>> = MARKERS.iter().map(read).collect::<Result<_>>()?;
        let rows = markers.iter().map(|marker| marker.chunks(3));
        let mut rows: Vec<_> = rows.collect();
        let mut positions = Vec::new();
        // Until the first file ends.
        while let Some(step) = rows
            .iter_mut()
            .map(Iterator::next)
            .collect::<Option<Vec<_>>>()
        {
            positions.extend(step.concat());
        }
        Ok(Self {
            name: name.to_owned(),
            positions,
        })
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.positions.len() / COORDINATES
    }

    /// All coordinates at a step.
    pub fn at(&self, step: usize) -> &[f32] {
        &self.positions[step * COORDINATES..(step + 1) * COORDINATES]
    }

    /// Positions and moves over the last [`LAGS`] steps in; how far each coordinate will have moved after 1, 2, …, [`AHEAD`] steps out,
    /// where the recording says so.
    pub fn series(&self) -> std::result::Result<Series, DataError> {
        let mut inputs = Vec::with_capacity(self.steps() * INPUTS);
        let mut moves = Vec::with_capacity(self.positions.len() * AHEAD);
        let apart = |from: usize, to: usize| {
            let both = self.at(from).iter().zip(self.at(to));
            both.map(|(from, to)| to - from)
        };
        for step in 0..self.steps() {
            inputs.extend_from_slice(self.at(step));
            for lag in LAGS {
                // Before the first step nothing moves.
                inputs.extend(apart(step.saturating_sub(lag), step));
            }
            for later in step + 1..=step + AHEAD {
                match later < self.steps() {
                    true => moves.extend(apart(step, later)),
                    false => moves.extend([f32::NAN; COORDINATES]),
                }
            }
        }
        Series::new(inputs, INPUTS, moves, AHEAD * COORDINATES)
    }
}

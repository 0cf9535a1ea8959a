//! One basin of CAMELS (Newman et al. 2015, Addor et al. 2017): daily weather in, the river's flow out.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use atbptt::train::data::{Normalisation, Series, SeriesSet, SeriesSource};

use crate::common::Result;

/// Day length, precipitation, radiation, warmest and coldest temperature, vapour pressure; snow is left out.
const COLUMNS: [usize; 6] = [4, 5, 6, 8, 9, 10];
/// Column of the flow in the other file.
const FLOW: usize = 11;
/// Inputs per step.
pub const INPUTS: usize = COLUMNS.len();
/// Parallel sequences, one after the other in time.
const SEQUENCES: usize = 8;

/// Training days before 1996 and validation days of 1996 to 1998, normalised by the former.
pub fn load(folder: &Path) -> Result<[SeriesSource; 2]> {
    // Three numbers about the basin and a head of names come first.
    let weather: HashMap<[u32; 3], Vec<f32>> = table(folder, "_forcing_leap.txt", 4)?
        .into_iter()
        .map(|(day, row)| {
            let inputs = COLUMNS.map(|column| number(&row, column));
            Ok((day, inputs.into_iter().collect::<Result<_>>()?))
        })
        .collect::<Result<_>>()?;
    let mut days: Vec<(u32, &[f32], f32)> = Vec::new();
    for (day, row) in table(folder, "_model_output.txt", 1)? {
        if let Some(inputs) = weather.get(&day) {
            days.push((day[0], inputs, number(&row, FLOW)?));
        }
    }
    let series = |years: std::ops::Range<u32>| -> Result<SeriesSet> {
        let of_years = || days.iter().filter(|day| years.contains(&day.0));
        let inputs = of_years().flat_map(|day| day.1).copied().collect();
        let flow = of_years().map(|day| day.2).collect();
        Ok(SeriesSet::new(vec![Series::new(inputs, INPUTS, flow, 1)?])?)
    };
    let (train, valid) = (series(0..1996)?, series(1996..1999)?);
    let scale = Normalisation::fit(&train)?;
    Ok([
        SeriesSource::new(scale.apply(&train)?.cut(SEQUENCES)?, SEQUENCES)?,
        SeriesSource::new(scale.apply(&valid)?, 1)?,
    ])
}

/// Year, month and day of every row after the head, and its cells.
fn table(folder: &Path, end: &str, head: usize) -> Result<Vec<([u32; 3], Vec<String>)>> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .map_err(|error| format!("cannot read {}: {error}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(end))
        .collect();
    found.sort();
    let Some(path) = found.first() else {
        return Err(format!("{} has no file *{end}", folder.display()).into());
    };
    let text = fs::read_to_string(path)?;
    let rows = text.lines().skip(head).map(|line| {
        let row: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let mut day = [0; 3];
        for (column, part) in day.iter_mut().enumerate() {
            *part = number(&row, column)? as u32;
        }
        Ok((day, row))
    });
    rows.collect()
}

fn number(row: &[String], column: usize) -> Result<f32> {
    let cell = row
        .get(column)
        .ok_or_else(|| format!("a row of {} cells has no column {column}", row.len()))?;
    cell.parse()
        .map_err(|error| format!("{cell:?} in column {column}: {error}").into())
}

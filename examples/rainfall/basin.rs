//! One basin of CAMELS (Newman et al. 2015, Addor et al. 2017), day by day: the weather, the river's flow, and what an operational
//! model makes of it.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use atbptt::train::data::{DataError, Missing, Series, Table, TableOptions};

use crate::common::Result;

/// Day length, precipitation, radiation, warmest and coldest temperature, vapour pressure; snow is left out.
pub const WEATHER: [&str; 6] = [
    "dayl(s)",
    "prcp(mm/day)",
    "srad(W/m2)",
    "tmax(C)",
    "tmin(C)",
    "vp(Pa)",
];
const FORCING: &str = "_forcing_leap.txt";
const FLOWS: &str = "_model_output.txt";

/// Year, month, day.
type Date = [u16; 3];

/// Days that follow each other.
#[derive(Clone, Debug)]
pub struct Basin {
    /// Number of its gauge, such as `01031500`.
    pub name: String,
    dates: Vec<Date>,
    /// Row-major `[days, weather]`.
    weather: Vec<f32>,
    /// Observed flow in mm/day; NaN where there is none.
    flow: Vec<f32>,
    /// That of the operational model, SAC-SMA.
    operational: Vec<f32>,
}

impl Basin {
    /// Reads the first basin of a folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let forcing = first(folder, "", FORCING)?;
        let file = forcing.file_name().unwrap_or_default().to_string_lossy();
        let name = file.split('_').next().unwrap_or_default().to_owned();
        let flows = first(folder, &name, FLOWS)?;

        // Three lines about the basin come first.
        let options = TableOptions::default()
            .with_delimiter(' ')
            .with_skip_first(3);
        let date = ["Year", "Mnth", "Day"];
        let columns: Vec<&str> = date.into_iter().chain(WEATHER).collect();
        let table = Table::from_path(&forcing, &columns, &options)?;
        let weather = table.inputs(&WEATHER, Missing::Refuse)?;
        let dates = dates(&table);
        let follows = |pair: &[Date]| day_number(pair[1]) == day_number(pair[0]) + 1;
        if let Some(gap) = dates.windows(2).position(|pair| !follows(pair)) {
            let [year, month, day] = dates[gap];
            return Err(format!(
                "{}, row {}: the day after {year}-{month:02}-{day:02} is missing; the state is carried from day to day, so that \
                 all days are needed",
                forcing.display(),
                gap + 2
            )
            .into());
        }

        let columns = ["YR", "MNTH", "DY", "OBS_RUN", "MOD_RUN"];
        let options = TableOptions::default().with_delimiter(' ');
        let table = Table::from_path(&flows, &columns, &options)?;
        // A flow below zero stands for a missing one.
        let number = |row, column| match table.value(row, column) {
            Some(flow) if flow >= 0.0 => flow as f32,
            _ => f32::NAN,
        };
        let by_day: HashMap<Date, [f32; 2]> = self::dates(&table)
            .into_iter()
            .enumerate()
            .map(|(row, day)| (day, [number(row, 3), number(row, 4)]))
            .collect();
        let of_day = |day| by_day.get(day).copied().unwrap_or([f32::NAN; 2]);
        let (flow, operational) = dates.iter().map(of_day).map(|[f, o]| (f, o)).unzip();
        Ok(Self {
            name,
            dates,
            weather,
            flow,
            operational,
        })
    }

    /// Days of these years.
    pub fn days(&self, years: Range<u16>) -> Range<usize> {
        let before = |year| self.dates.partition_point(|date| date[0] < year);
        before(years.start)..before(years.end)
    }

    /// A day, such as `1999-01-31`.
    pub fn date(&self, day: usize) -> String {
        let [year, month, day] = self.dates[day];
        format!("{year}-{month:02}-{day:02}")
    }

    /// Weather in and flow out on these days, after `context` days before them whose flow does not count.
    pub fn series(
        &self,
        days: Range<usize>,
        context: usize,
    ) -> std::result::Result<Series, DataError> {
        let all = Series::new(self.weather.clone(), WEATHER.len(), self.flow.clone(), 1)?;
        Ok(all.part(days, context))
    }

    /// Observed flow on these days, in mm/day; NaN where there is none.
    pub fn flow(&self, days: Range<usize>) -> &[f32] {
        &self.flow[days]
    }

    /// The operational model's, alike.
    pub fn operational(&self, days: Range<usize>) -> &[f32] {
        &self.operational[days]
    }
}

/// The first file of a folder whose name begins and ends so.
fn first(folder: &Path, begin: &str, end: &str) -> Result<PathBuf> {
    const WHERE: &str = "two files of basin 01031500 are in https://github.com/kratzert/RRMPG (rrmpg/data/data/camels), those of all 671 \
                         in CAMELS (basin_mean_forcing/daymet and model_output_daymet): put a basin's two files into a folder, and name it \
                         with --data";
    let files = fs::read_dir(folder)
        .map_err(|error| format!("cannot read {}: {error}; {WHERE}", folder.display()))?;
    let mut found: Vec<PathBuf> = files
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(begin) && name.ends_with(end)
        })
        .collect();
    found.sort();
    found
        .into_iter()
        .next()
        .ok_or_else(|| format!("{} has no file {begin}*{end}; {WHERE}", folder.display()).into())
}

/// The first three columns.
fn dates(table: &Table) -> Vec<Date> {
    let part = |row, column| table.value(row, column).unwrap_or(0.0) as u16;
    (0..table.rows())
        .map(|row| [0, 1, 2].map(|column| part(row, column)))
        .collect()
}

/// Days since 1 March of year 0, for the Gregorian calendar.
fn day_number([year, month, day]: Date) -> i64 {
    // Years that begin in March end with the leap day.
    let (year, month) = (i64::from(year), i64::from(month));
    let (year, month) = match month < 3 {
        true => (year - 1, month + 9),
        false => (year, month - 3),
    };
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + i64::from(day) - 1
}

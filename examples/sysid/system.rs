//! The two systems: their files, how these are split, what is published.

use std::fmt;
use std::path::{Path, PathBuf};

use atbptt::train::data::{Missing, Series, SeriesSet, Table, TableOptions};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::common::Result;

/// A system to identify: an input that acts on it, an output that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum System {
    /// An electronic oscillator with a nonlinear spring, 610 samples per second
    Silverbox,
    /// Two water tanks, one above the other, one sample in four seconds
    Tanks,
}

/// Steps at the beginning of the test in which the state settles: the benchmarks do not count them.
pub const SETTLING: usize = 50;

/// Series in the units of the file.
pub struct Parts {
    pub train: SeriesSet,
    pub valid: SeriesSet,
    pub test: Series,
}

impl System {
    pub const ALL: [Self; 2] = [Self::Silverbox, Self::Tanks];

    /// Where its file lies below the data folder.
    fn file(self) -> &'static str {
        match self {
            Self::Silverbox => "silverbox/SNLS80mV.csv",
            Self::Tanks => "tanks/dataBenchmark.csv",
        }
    }

    /// Where to get it.
    fn source(self) -> &'static str {
        match self {
            Self::Silverbox => {
                "SNLS80mV.csv is in https://github.com/forgi86/pytorch-ident and at https://www.nonlinearbenchmark.org"
            }
            Self::Tanks => {
                "dataBenchmark.csv is in https://github.com/forgi86/sysid-neural-structures-fitting and at https://www.nonlinearbenchmark.org"
            }
        }
    }

    /// Seconds per step.
    pub fn step_seconds(self) -> f64 {
        match self {
            Self::Silverbox => 1.0 / 610.35,
            Self::Tanks => 4.0,
        }
    }

    /// What to stand beside, in volts.
    pub fn published(self) -> &'static str {
        match self {
            Self::Silverbox => {
                "0.0096 (an LSTM of 40 units, full backpropagation) and 0.0095 (K = 100)"
            }
            Self::Tanks => "0.34 to 0.76 (four nonlinear state-space, Volterra and linear models)",
        }
    }

    /// Reads its file below `data`, or in it, and splits it: `warm_up` steps before validation only fill the state.
    pub fn load(self, data: &Path, warm_up: usize) -> Result<Parts> {
        let name = Path::new(self.file()).file_name().unwrap_or_default();
        let places: [PathBuf; 2] = [data.join(self.file()), data.join(name)];
        let Some(path) = places.iter().find(|path| path.is_file()) else {
            return Err(format!(
                "no file {}; {}: name its folder, or the one above, with --data",
                places[0].display(),
                self.source()
            )
            .into());
        };
        let series = |columns: [&str; 2]| -> Result<Series> {
            let table = Table::from_path(path, &columns, &TableOptions::default())?;
            let [input, output] = columns;
            let refuse = Missing::Refuse;
            Ok(table.series(&[input], &[output], 0, refuse, refuse)?)
        };
        let set = |series: Series| SeriesSet::new(vec![series]);
        match self {
            Self::Silverbox => {
                // The arrow, whose amplitude grows beyond what is trained on, then ten multisines; the last one validates.
                let all = series(["V1", "V2"])?;
                Ok(Parts {
                    train: set(all.part(40_600..118_600, 0))?,
                    valid: set(all.part(118_600..127_400, warm_up))?,
                    test: all.part(0..40_400, 0),
                })
            }
            Self::Tanks => {
                // Two recordings of 1,024 steps; the last quarter of the first one validates.
                let (first, second) = (series(["uEst", "yEst"])?, series(["uVal", "yVal"])?);
                Ok(Parts {
                    train: set(first.part(0..768, 0))?,
                    valid: set(first.part(768..1024, warm_up))?,
                    test: second,
                })
            }
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silverbox => "silverbox",
            Self::Tanks => "tanks",
        })
    }
}

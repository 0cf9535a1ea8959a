//! Columns of CSV files as normalised series, in three parts.

use std::collections::BTreeSet;
use std::path::PathBuf;

use atbptt::train::data::{Missing, Normalisation, SeriesSet, Table, TableOptions};
use atbptt::train::run::DataPath;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::columns::Columns;
use crate::common::Result;

/// Which columns of which files, and how they are written.
#[derive(Args, Debug)]
pub struct DataArgs {
    /// CSV files, each one series
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "resume")]
    data: Vec<PathBuf>,

    /// Columns that the model reads, by name, with commas between them; a name with a comma in it stands in double quotes
    #[arg(long, value_name = "NAMES", value_parser = names, required_unless_present = "resume")]
    input: Option<Names>,

    /// Columns that it predicts
    #[arg(long, value_name = "NAMES", value_parser = names, required_unless_present = "resume")]
    target: Option<Names>,

    /// How many rows ahead the targets lie [default: 0; 1 where a target is an input too]
    #[arg(long, value_name = "ROWS")]
    horizon: Option<usize>,

    /// Between columns: one character, or `tab` [default: ,]
    #[arg(long, value_name = "CHARACTER")]
    delimiter: Option<String>,

    /// Decimals are written with a comma
    #[arg(long)]
    decimal_comma: bool,

    /// The first row is no header: columns are called 1, 2, …
    #[arg(long)]
    no_header: bool,

    /// Leave out lines at the beginning of every file, before the header
    #[arg(long, value_name = "LINES")]
    skip_first: Option<usize>,

    /// Leave out rows at the end of every file
    #[arg(long, value_name = "ROWS")]
    drop_last: Option<usize>,

    /// What stands for a missing value, besides nothing at all, with commas between [default: NA,NaN,null,?]
    #[arg(long, value_name = "NAMES", value_parser = names, allow_hyphen_values = true)]
    missing: Option<Names>,

    /// What to do about a missing input [default: refuse]
    #[arg(long, value_enum)]
    missing_input: Option<MissingInput>,

    /// What to do about a missing target [default: refuse]
    #[arg(long, value_enum)]
    missing_target: Option<MissingTarget>,

    /// Shares of training and validation; the rest is the test part [default: 0.7,0.15]
    #[arg(long, value_name = "TRAIN,VALIDATION", value_parser = shares)]
    split: Option<[f64; 2]>,

    /// Rows before validation and test part that bring the state up to them without counting [default: 200]
    #[arg(long, value_name = "ROWS")]
    context: Option<usize>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MissingInput {
    /// An error that names the place
    Refuse,
    /// The value before it
    Carry,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MissingTarget {
    /// An error that names the place
    Refuse,
    /// The value before it
    Carry,
    /// No loss there
    Mask,
}

/// The data of a run, as its folder remembers them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Data {
    files: Vec<DataPath>,
    pub inputs: Vec<String>,
    pub targets: Vec<String>,
    horizon: Option<usize>,
    options: TableOptions,
    missing: [Missing; 2],
    split: [f64; 2],
    context: usize,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            inputs: Vec::new(),
            targets: Vec::new(),
            horizon: None,
            options: TableOptions::default(),
            missing: [Missing::Refuse; 2],
            split: [0.7, 0.15],
            context: 200,
        }
    }
}

/// Names of columns, or of what is missing.
#[derive(Clone, Debug)]
struct Names(Vec<String>);

/// Names as a row of a CSV file has them.
fn names(text: &str) -> std::result::Result<Names, String> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let row = reader.records().next().transpose();
    let row = row.map_err(|error| error.to_string())?.unwrap_or_default();
    let names: Vec<String> = row.iter().map(str::to_owned).collect();
    match names.is_empty() {
        true => Err("give a name, or several with commas between them".into()),
        false => Ok(Names(names)),
    }
}

/// Two shares with a comma between them.
fn shares(text: &str) -> std::result::Result<[f64; 2], String> {
    let numbers: Vec<f64> = text
        .split(',')
        .map(|share| share.trim().parse())
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| format!("{error}; give two shares, such as 0.7,0.15"))?;
    numbers
        .try_into()
        .map_err(|_| "give two shares, of training and of validation, such as 0.7,0.15".into())
}

impl DataArgs {
    /// Puts what the user asked for into the settings.
    pub fn apply(&self, data: &mut Data) -> Result<()> {
        if !self.data.is_empty() {
            let files = self.data.iter().map(DataPath::new);
            data.files = files.collect::<std::result::Result<_, _>>()?;
        }
        for (given, kept) in [
            (&self.input, &mut data.inputs),
            (&self.target, &mut data.targets),
        ] {
            if let Some(Names(given)) = given {
                kept.clone_from(given);
            }
        }
        data.horizon = self.horizon.or(data.horizon);
        let options = &mut data.options;
        if let Some(delimiter) = &self.delimiter {
            let mut characters = delimiter.chars();
            options.delimiter = match (delimiter.as_str(), characters.next(), characters.next()) {
                ("tab" | "\\t", ..) => '\t',
                (_, Some(one), None) => one,
                _ => {
                    return Err(format!(
                        "--delimiter is one character, or `tab`, got {delimiter:?}"
                    )
                    .into());
                }
            };
        }
        options.decimal_comma |= self.decimal_comma;
        options.header &= !self.no_header;
        options.drop_last = self.drop_last.unwrap_or(options.drop_last);
        options.skip_first = self.skip_first.unwrap_or(options.skip_first);
        if let Some(Names(missing)) = &self.missing {
            options.missing.clone_from(missing);
        }
        let [input, target] = &mut data.missing;
        match self.missing_input {
            Some(MissingInput::Refuse) => *input = Missing::Refuse,
            Some(MissingInput::Carry) => *input = Missing::CarryForward,
            None => {}
        }
        match self.missing_target {
            Some(MissingTarget::Refuse) => *target = Missing::Refuse,
            Some(MissingTarget::Carry) => *target = Missing::CarryForward,
            Some(MissingTarget::Mask) => *target = Missing::Mask,
            None => {}
        }
        if let Some(split) = self.split {
            data.split = split;
        }
        data.context = self.context.unwrap_or(data.context);
        Ok(())
    }
}

/// Series in the model's units, and how they get back into the data's.
pub struct Loaded {
    /// Names of the files.
    pub names: Vec<String>,
    /// All rows.
    pub normalised: SeriesSet,
    pub training: SeriesSet,
    pub valid: SeriesSet,
    pub test: SeriesSet,
    /// Fitted on the training part.
    pub normalisation: Normalisation,
}

impl Data {
    /// Rows ahead that targets lie.
    pub fn horizon(&self) -> usize {
        let predicts_itself = self.targets.iter().any(|name| self.inputs.contains(name));
        self.horizon.unwrap_or(usize::from(predicts_itself))
    }

    /// What there is to know to forecast another file.
    pub fn columns(&self) -> Columns {
        Columns {
            inputs: self.inputs.clone(),
            targets: self.targets.clone(),
            horizon: self.horizon(),
            options: self.options.clone(),
            missing_inputs: self.missing[0],
        }
    }

    /// Shares of the training part and of training and validation together.
    pub fn shares(&self) -> [f64; 2] {
        let [train, valid] = self.split;
        [train, train + valid]
    }

    pub fn load(&self) -> Result<Loaded> {
        let names: BTreeSet<&String> = self.inputs.iter().chain(&self.targets).collect();
        let names: Vec<&String> = names.into_iter().collect();
        let [inputs, targets] = self.missing;
        let read = |file: &DataPath| -> Result<_> {
            let table = Table::from_path(file.path(), &names, &self.options)?;
            Ok(table.series(&self.inputs, &self.targets, self.horizon(), inputs, targets)?)
        };
        let series: Result<Vec<_>> = self.files.iter().map(read).collect();
        let series = SeriesSet::new(series?)?;
        let [train, valid] = self.split;
        let [training, ..] = series.split(train, valid, 0)?;
        let normalisation = Normalisation::fit(&training)?;
        let normalised = normalisation.apply(&series)?;
        let [training, valid, test] = normalised.split(train, valid, self.context)?;
        let name = |file: &DataPath| match file.path().file_stem() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => file.to_string(),
        };
        Ok(Loaded {
            names: self.files.iter().map(name).collect(),
            normalised,
            training,
            valid,
            test,
            normalisation,
        })
    }

    pub fn in_words(&self) -> String {
        self.described(&ToString::to_string)
    }

    /// The same for figures, which have no room for folders.
    pub fn title(&self) -> String {
        self.described(&|file: &DataPath| {
            let name = file.path().file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        })
    }

    fn described(&self, name: &dyn Fn(&DataPath) -> String) -> String {
        let files = match self.files.as_slice() {
            [one] => name(one),
            files => format!("{} files", files.len()),
        };
        let ahead = match self.horizon() {
            0 => String::new(),
            1 => ", one row ahead".into(),
            rows => format!(", {rows} rows ahead"),
        };
        format!(
            "{} from {} of {files}{ahead}",
            self.targets.join(", "),
            self.inputs.join(", ")
        )
    }
}

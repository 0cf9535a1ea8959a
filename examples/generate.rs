//! What has a model learnt? Text from a trained language model, the perplexity of a text, or the forecast of a series, with nothing
//! but the run folder.
//!
//! ```text
//! cargo run --release --example wiki2                                            # trains a model into runs/wiki2-1
//! cargo run --release --example generate -- runs/wiki2-1 --prompt "the president of"
//! cargo run --release --example generate -- runs/wiki2-1 --perplexity some.txt
//! cargo run --release --example generate -- runs/series-1 --series new.csv > forecast.csv
//! ```
//!
//! Expected: words after the prompt, drawn by temperature, top-k and top-p; one line with the perplexity of the file; or a CSV table
//! of forecasts, a row per row of the file. The folder needs neither the program that trained it nor its data: `runs/wiki2-1/model`
//! can be copied anywhere.

#[path = "series/columns.rs"]
mod columns;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use atbptt::models::{
    GruLayer, LstmLayer, MinGruLayer, RecurrentLayer, RnnLayer, Sampling, TextState,
};
use atbptt::train::data::Table;
use atbptt::train::run::{TrainedModel, say};
use atbptt::train::{TokenSource, device_from_env, evaluate};
use burn::tensor::Device;
use clap::Parser;

use crate::columns::Columns;

/// Go on with a text, measure the perplexity of one, or forecast a series, by the trained model of a run.
#[derive(Parser, Debug)]
#[command(name = "generate", version)]
struct Cli {
    /// Folder of a run, or the folder `model` in it
    run: PathBuf,

    /// Text to go on with; `\n` ends a line
    #[arg(long, value_name = "TEXT", default_value = "")]
    prompt: String,

    /// Number of tokens to write: words, or what the model's texts were cut into
    #[arg(long, value_name = "N", default_value_t = 100)]
    tokens: usize,

    /// Below 1 sharpens the distribution of the next token, above 1 flattens it; 0 takes the likeliest
    #[arg(
        long,
        value_name = "T",
        default_value_t = 1.0,
        allow_negative_numbers = true
    )]
    temperature: f64,

    /// Draw from so many likeliest tokens only
    #[arg(long, value_name = "N")]
    top_k: Option<usize>,

    /// Draw from the fewest tokens whose probabilities reach this share only, in (0, 1]
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f64,

    /// Seed of the draws: the same seed gives the same text
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Measure the perplexity of this text file instead
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    perplexity: Option<PathBuf>,

    /// Forecast the rows of this CSV file, which has the columns that the model of series reads
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "perplexity"])]
    series: Option<PathBuf>,
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = TrainedModel::open(&cli.run)
        .map_err(Into::into)
        .and_then(|trained| match trained.layer()?.as_str() {
            LstmLayer::NAME => run::<LstmLayer>(&cli, &trained),
            GruLayer::NAME => run::<GruLayer>(&cli, &trained),
            MinGruLayer::NAME => run::<MinGruLayer>(&cli, &trained),
            RnnLayer::NAME => run::<RnnLayer>(&cli, &trained),
            other => Err(format!("this program knows no layers of kind {other}").into()),
        });
    match done {
        Ok(text) => {
            say(text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run<L: RecurrentLayer>(cli: &Cli, trained: &TrainedModel) -> Result<String> {
    let device = device_from_env()?.device;
    if let Some(path) = &cli.series {
        return forecast::<L>(trained, path, &device);
    }
    let text = trained.tokens()?;
    let model = trained.language_model::<L>(&device)?;
    // Every text follows the end of a line.
    let mut tokens: Vec<u32> = text.end_of_line().into_iter().collect();
    if let Some(path) = &cli.perplexity {
        let mut content = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        if content.trim().is_empty() {
            return Err(format!("{} holds no text to predict", path.display()).into());
        }
        if !content.ends_with('\n') {
            content.push('\n');
        }
        tokens.extend(text.encode(&content)?);
        let loss = evaluate(&model, &TokenSource::evaluation(tokens, 1)?, 256, &device)?;
        let perplexity = (loss.sum / loss.count as f64).exp();
        return Ok(format!(
            "perplexity {perplexity:.2} over {} tokens",
            loss.count
        ));
    }
    let sampling = Sampling {
        temperature: cli.temperature,
        top_k: cli.top_k,
        top_p: cli.top_p,
        seed: cli.seed,
    };
    sampling.check()?;
    let begun = tokens.len();
    tokens.extend(text.encode(&cli.prompt.replace("\\n", "\n"))?);
    if tokens.is_empty() {
        return Err("this model's texts have no token to begin with; give a --prompt".into());
    }
    let mut state = TextState::new(model);
    state.read(&tokens)?;
    for _ in 0..cli.tokens {
        tokens.push(state.write(&sampling)?);
    }
    Ok(text.decode(&tokens[begun..])?)
}

/// Forecasts as CSV: the row that each is of, counted from 1, then the targets, and how sure the model is of each.
fn forecast<L: RecurrentLayer>(
    trained: &TrainedModel,
    path: &Path,
    device: &Device,
) -> Result<String> {
    let columns: Columns = trained.file(columns::FILE)?;
    let table = Table::from_path(path, &columns.inputs, &columns.options)?;
    let inputs = table.inputs(&columns.inputs, columns.missing_inputs)?;
    let rows = trained.forecast::<L>(device)?.predict(&inputs)?;
    let mut names = columns.targets.clone();
    if rows.deviation.is_some() {
        names.extend(
            columns
                .targets
                .iter()
                .map(|name| format!("deviation of {name}")),
        );
    }
    let mut written = csv::Writer::from_writer(Vec::new());
    written.write_record(std::iter::once("row").chain(names.iter().map(String::as_str)))?;
    let width = columns.targets.len();
    for (nth, mean) in rows.mean.chunks(width).enumerate() {
        let deviation = rows.deviation.as_deref().unwrap_or_default();
        let deviation = deviation.iter().skip(nth * width).take(width);
        let row = nth + columns.horizon + 1;
        let values = mean.iter().chain(deviation).map(f32::to_string);
        written.write_record(std::iter::once(row.to_string()).chain(values))?;
    }
    Ok(String::from_utf8(written.into_inner()?)?
        .trim_end()
        .to_owned())
}

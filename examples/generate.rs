//! What has a language model learnt? Text from a trained model, and the perplexity of a text, with nothing but the run folder.
//!
//! ```text
//! cargo run --release --example wiki2                                            # trains a model into runs/wiki2-1
//! cargo run --release --example generate -- runs/wiki2-1 --prompt "the president of"
//! cargo run --release --example generate -- runs/wiki2-1 --perplexity some.txt
//! ```
//!
//! Expected: words after the prompt, drawn by temperature, top-k and top-p; or one line with the perplexity of the file. The
//! folder needs neither the program that trained it nor its text: `runs/wiki2-1/model` can be copied anywhere.

use std::path::PathBuf;
use std::process::ExitCode;

use atbptt::models::{
    GruLayer, LstmLayer, MinGruLayer, RecurrentLayer, RnnLayer, Sampling, TextState,
};
use atbptt::train::run::TrainedModel;
use atbptt::train::{TokenSource, device_from_env, evaluate};
use clap::Parser;

/// Go on with a text, or measure the perplexity of one, by the trained model of a run.
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
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run<L: RecurrentLayer>(cli: &Cli, trained: &TrainedModel) -> Result<String> {
    let vocabulary = trained.vocabulary()?;
    let unit = trained
        .unit()?
        .ok_or("the model's texts were cut into tokens by a tokeniser of its own; write with a program that has it")?;
    let device = device_from_env()?.device;
    let model = trained.language_model::<L>(&device)?;
    // Every text follows the end of a line.
    let mut tokens: Vec<u32> = unit.end_of_line(&vocabulary).into_iter().collect();
    if let Some(path) = &cli.perplexity {
        let mut text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        if !text.ends_with('\n') {
            text.push('\n');
        }
        tokens.extend(unit.encode(&vocabulary, &text)?);
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
    tokens.extend(unit.encode(&vocabulary, &cli.prompt.replace("\\n", "\n"))?);
    let mut text = TextState::new(model);
    text.read(&tokens)?;
    for _ in 0..cli.tokens {
        tokens.push(text.write(&sampling)?);
    }
    Ok(unit.decode(&vocabulary, &tokens[begun..]))
}

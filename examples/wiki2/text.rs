//! Which text is trained on, and how it is read: a folder, WikiText-2 from the network, or the built-in corpus.

use std::path::{Path, PathBuf};

use atbptt::train::data::{Corpus, CorpusOptions, SyntheticConfig, TokenUnit, download::WikiText2};
use atbptt::train::run::DataPath;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::common::{Result, say};
use super::options::Language;

/// Where the text comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Text {
    /// WikiText-2 from the network or the cache, else the built-in corpus.
    WikiText2OrBuiltIn,
    /// The built-in corpus.
    BuiltIn,
    /// A folder.
    Folder(DataPath),
}

/// How a text becomes tokens.
#[derive(Args, Debug)]
pub struct ReadingArgs {
    /// What one token of a text is [default: word]
    #[arg(long, value_enum, conflicts_with = "builtin")]
    unit: Option<UnitArg>,

    /// Which splits may add words to the vocabulary; others become <unk> [default: all]
    #[arg(long, value_enum, conflicts_with = "builtin")]
    vocabulary: Option<WordsOf>,

    /// How often a word must stand in these splits; rarer ones become <unk> [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "builtin")]
    min_count: Option<usize>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum UnitArg {
    /// What white space separates, and the ends of lines
    Word,
    /// Unicode characters, blanks and line breaks too
    Char,
    /// Bytes, of any file
    Byte,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
enum WordsOf {
    /// Train, valid and test, as published perplexities on PTB and WikiText-2 count
    #[default]
    #[serde(rename = "AllSplits")]
    All,
    /// Train alone
    #[serde(rename = "TrainOnly")]
    Training,
}

/// How a text becomes tokens, as a run's folder remembers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    unit: TokenUnit,
    vocabulary: WordsOf,
    min_count: usize,
}

impl ReadingArgs {
    /// Puts what the user asked for into the settings.
    pub fn apply(&self, reading: &mut Reading) {
        reading.unit = match self.unit {
            Some(UnitArg::Word) => TokenUnit::Words,
            Some(UnitArg::Char) => TokenUnit::Characters,
            Some(UnitArg::Byte) => TokenUnit::Bytes,
            None => reading.unit,
        };
        reading.vocabulary = self.vocabulary.unwrap_or(reading.vocabulary);
        reading.min_count = self.min_count.unwrap_or(reading.min_count);
    }
}

impl Reading {
    /// Tokens of these, in words.
    pub fn unit_name(&self) -> &'static str {
        match self.unit {
            TokenUnit::Words => "words",
            TokenUnit::Characters => "characters",
            TokenUnit::Bytes => "bytes",
            _ => "tokens",
        }
    }
}

/// Loads the text of `task` and says which one it is. Where it was left open, the choice is written into `task`, so that a
/// resumed run reads the same.
/// With the paper's settings, nothing stands in for its text.
pub fn load(task: &mut Language, paper: bool) -> Result<Corpus> {
    let options = CorpusOptions {
        max_tokens: task.max_tokens,
        max_eval_tokens: task.max_tokens.map(|limit| (limit / 10).max(1)),
        words_of_train_only: task.reading.vocabulary == WordsOf::Training,
        min_count: task.reading.min_count,
        unit: task.reading.unit,
    };
    let corpus = match &task.text {
        Text::Folder(folder) => from_folder(folder.path(), &options)?,
        Text::BuiltIn => built_in(task.max_tokens)?,
        Text::WikiText2OrBuiltIn => match WikiText2::new().and_then(|source| source.fetch()) {
            Ok(folder) => {
                let corpus = Corpus::from_folder(&folder, &options)?;
                task.text = Text::Folder(DataPath::new(folder)?);
                corpus
            }
            Err(error) if paper => {
                return Err(format!(
                    "WikiText-2 is not available ({error}), and --paper is about it; give its folder with --data"
                )
                .into());
            }
            Err(error) if task.reading != Reading::default() => {
                return Err(format!(
                    "WikiText-2 is not available ({error}), and the built-in corpus has words only; leave out --unit, \
                     --vocabulary and --min-count, or give a text with --data"
                )
                .into());
            }
            Err(error) => {
                say(format_args!("WikiText-2 is not available: {error}"));
                say("");
                say(format_args!(
                    "  *** Training on the BUILT-IN CORPUS: generated sentences, not real text. ***"
                ));
                say(format_args!(
                    "  *** Give a folder with --data to train on a text of your own.           ***"
                ));
                say("");
                task.text = Text::BuiltIn;
                built_in(task.max_tokens)?
            }
        },
    };
    for warning in corpus.warnings() {
        say(format_args!("warning: {warning} (--unit char)"));
    }
    Ok(corpus)
}

/// Texts of more bytes than this are not held in memory.
const LARGE: u64 = 256 << 20;

fn from_folder(folder: &Path, options: &CorpusOptions) -> Result<Corpus> {
    let bytes: u64 = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()))
        .sum();
    if bytes <= LARGE {
        return Ok(Corpus::from_folder(folder, options)?);
    }
    let cache = cache_folder()?;
    say(format_args!(
        "{} holds {} MiB of text: its tokens are kept in {}",
        folder.display(),
        bytes >> 20,
        cache.display()
    ));
    Ok(Corpus::from_large_folder(folder, options, cache)?)
}

/// `atbptt/tokens` in the user's cache folder.
fn cache_folder() -> Result<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty());
    let cache = folder("XDG_CACHE_HOME")
        .or_else(|| folder("LOCALAPPDATA"))
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(folder("HOME")?).join(".cache")));
    let cache = cache.ok_or("no cache folder for a large text; set XDG_CACHE_HOME or HOME")?;
    Ok(cache.join("atbptt/tokens"))
}

/// The built-in corpus, its size limited like a folder's would be.
fn built_in(max_tokens: Option<usize>) -> Result<Corpus> {
    let default = SyntheticConfig::default();
    let config = match max_tokens {
        Some(limit) => {
            let eval = (limit / 10).max(2);
            default.with_tokens(limit, eval, eval)
        }
        None => default,
    };
    Ok(Corpus::synthetic(&config)?)
}

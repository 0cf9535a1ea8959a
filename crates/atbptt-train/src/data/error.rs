//! What can be wrong with data, said as rule, finding and remedy.

use std::io;
use std::path::PathBuf;

/// As much of a text as a message has room for.
pub(crate) fn beginning(text: &str) -> String {
    const MOST: usize = 200;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => text.get(..end).unwrap_or(text).to_owned() + "…",
        None => text.to_owned(),
    }
}

/// An error of this module. Every message names the rule, what was found instead, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The corpus folder does not exist, or is not a folder.
    #[error("a corpus is a folder of text files, but {} is not a folder; check the path", path.display())]
    FolderMissing {
        /// The path that was given.
        path: PathBuf,
    },
    /// The folder holds no file for one of the splits.
    #[error(
        "{} has no file for the {split} split (tried {}); add it or rename yours",
        folder.display(), tried.join(", ")
    )]
    SplitMissing {
        /// The folder that was searched.
        folder: PathBuf,
        /// The split: `train`, `valid` or `test`.
        split: &'static str,
        /// The file names that were tried, in order.
        tried: Vec<String>,
    },
    /// A split holds no token.
    #[error("a split needs at least one line of text, but {origin} is empty; put text into it")]
    EmptySplit {
        /// The file, or the name of the generated split.
        origin: String,
    },
    /// A line is not UTF-8.
    #[error(
        "text must be UTF-8, but {origin} is not at line {line} (byte {byte} of the file); re-encode it, \
         for example with `iconv -t UTF-8`"
    )]
    NotUtf8 {
        /// The file.
        origin: String,
        /// Line of the offending byte, counted from 1.
        line: usize,
        /// Offset of the offending byte from the start of the file, counted from 0.
        byte: u64,
    },
    /// A word without an end.
    #[error(
        "{origin}, line {line}: a word of more than {limit} bytes; texts without blanks are read as characters or bytes"
    )]
    WordTooLong {
        /// The file.
        origin: String,
        /// The line, counted from 1.
        line: usize,
        /// Longest word, in bytes.
        limit: usize,
    },
    /// A tokeniser failed.
    #[error("the tokeniser failed: {}; check its file", beginning(reason))]
    Tokenizer {
        /// Why.
        reason: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {cause}; check that the path exists and is permitted", path.display())]
    Io {
        /// What was being done: `read`, `create`, …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        cause: io::Error,
    },
    /// A vocabulary outgrew its 32-bit ids.
    #[error(
        "a vocabulary holds at most {limit} words, and this text has more; map rare words to `<unk>` first"
    )]
    VocabularyFull {
        /// The largest possible number of words.
        limit: usize,
    },
    /// A text holds a token that a vocabulary does not know, and has no `<unk>` for.
    #[error(
        "{:?} is no token of the vocabulary, and it has no `<unk>` to stand for others; use tokens that it knows",
        beginning(token)
    )]
    UnknownToken {
        /// The word or character.
        token: String,
    },
    /// A stored vocabulary lists a word twice.
    #[error(
        "a vocabulary lists every word once, but {:?} stands at {first} and at {second}; \
         restore the file from where it was saved",
        beginning(word)
    )]
    DuplicateWord {
        /// The word.
        word: String,
        /// Its first position.
        first: usize,
        /// Its second position.
        second: usize,
    },
    /// A limit that keeps no token.
    #[error(
        "a token limit keeps at least one token, got 0; leave the limit out to keep the whole split"
    )]
    ZeroLimit,
    /// A batch of zero sequences.
    #[error("a batch needs at least one sequence, got 0; set the batch size to 1 or more")]
    EmptyBatch,
    /// The text is too short to give every sequence one input and one target.
    #[error(
        "{batch} sequences need at least {needed} tokens, and the text has {tokens}; \
         use a smaller batch or a longer text"
    )]
    BatchTooLarge {
        /// Sequences asked for.
        batch: usize,
        /// Tokens they need at least.
        needed: usize,
        /// Tokens there are.
        tokens: usize,
    },
    /// A window of zero steps.
    #[error("a window needs at least one step, got 0; set its length to 1 or more")]
    EmptyWindow,
    /// A window reaches past the end of the sequences.
    #[error(
        "a window of {len} steps from step {start} needs sequences of {} steps, and they have {steps}; \
         use a shorter window, a smaller batch or a longer text", start.saturating_add(*len)
    )]
    WindowTooLong {
        /// First step of the window.
        start: usize,
        /// Length of the window.
        len: usize,
        /// Steps of the longest sequence.
        steps: usize,
    },
    /// The number of window starts differs from the number of sequences.
    #[error("gathering needs one start per sequence ({batch}), got {got}; pass {batch} starts")]
    StartCount {
        /// Sequences of the stream.
        batch: usize,
        /// Starts given.
        got: usize,
    },
    /// A read past the end of a token store.
    #[error("tokens {start}..{} were asked of a store of {len}; read within it", start.saturating_add(*count))]
    OutOfRange {
        /// First token asked for.
        start: usize,
        /// Tokens asked for.
        count: usize,
        /// Tokens there are.
        len: usize,
    },
    /// A file of tokens is something else, or damaged.
    #[error("{} is not a whole token file: {reason}; remove it, and it is made again", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting of the built-in language is out of its range.
    #[error("built-in corpus: {rule}, got {got}; {remedy}")]
    Synthetic {
        /// The rule that was broken.
        rule: &'static str,
        /// What was found.
        got: String,
        /// What to do.
        remedy: &'static str,
    },
    /// No user cache folder is known on this system.
    #[error("no cache folder: none of {} is set; set one of them, or choose a cache folder yourself", tried.join(", "))]
    NoCacheFolder {
        /// The environment variables that were tried.
        tried: Vec<&'static str>,
    },
    /// A table cannot be read.
    #[error(transparent)]
    Table(#[from] super::TableError),
    /// More parallel streams than sequences.
    #[error(
        "{batch} parallel streams need as many sequences, and there are {sequences} with a step; take a smaller batch, or cut \
         long sequences"
    )]
    TooFewSequences {
        /// Streams asked for.
        batch: usize,
        /// Sequences there are.
        sequences: usize,
    },
    /// There is no step of a series.
    #[error(
        "series need at least one step, and there is none; check the files and the shares of the parts"
    )]
    NoSeries,
    /// Inputs and targets of a series do not fit each other.
    #[error(
        "a series needs as many steps of targets as of inputs, one column or more of each, got {inputs} values in rows of \
         {d_input} inputs, and {targets} in rows of {d_target} targets"
    )]
    SeriesShape {
        /// Number of input values.
        inputs: usize,
        /// Inputs per step.
        d_input: usize,
        /// Number of target values.
        targets: usize,
        /// Targets per step.
        d_target: usize,
    },
    /// A value of a series is not finite.
    #[error(
        "{what} {column} at step {step} is {got} (both counted from 0); inputs must be finite, targets finite or NaN for a \
         missing one"
    )]
    SeriesValue {
        /// `input` or `target`.
        what: &'static str,
        /// The step.
        step: usize,
        /// Which of the step's values.
        column: usize,
        /// The value.
        got: f32,
    },
    /// Series have different columns.
    #[error(
        "all series need {} inputs and {} targets, and series {nth} (counted from 0) has {} and {}; leave columns out, or \
         train on the others", expected[0], expected[1], got[0], got[1]
    )]
    SeriesWidths {
        /// The series.
        nth: usize,
        /// Its inputs and targets per step.
        got: [usize; 2],
        /// Those of the others.
        expected: [usize; 2],
    },
    /// A target is never there.
    #[error(
        "target {column} (counted from 0) is missing at every step of the training part; leave it out"
    )]
    NoTarget {
        /// Which target.
        column: usize,
    },
    /// Predictions and measurements are not of the same steps.
    #[error(
        "{predicted} predicted and {measured} measured values are not the same number of whole rows of {columns}; compare the \
         same steps and columns"
    )]
    NotComparable {
        /// Number of predicted values.
        predicted: usize,
        /// Number of measured values.
        measured: usize,
        /// Values per step.
        columns: usize,
    },
    /// The parts of a split leave nothing.
    #[error(
        "the shares of training and validation must be above 0 and leave something for the test, got {train} and {valid}; 0.7 \
         and 0.15 are usual"
    )]
    Shares {
        /// Share of the training part.
        train: f64,
        /// Share of the validation part.
        valid: f64,
    },
    /// Lengths of sequences do not add up to the items of a dataset.
    #[error(
        "the lengths of the sequences add up to {sum} steps, and the dataset has {items} items; every item is a step of one \
         sequence"
    )]
    Lengths {
        /// Sum of the lengths.
        sum: usize,
        /// Items of the dataset.
        items: usize,
    },
    /// A dataset could not give its items.
    #[error("the dataset failed: {}", beginning(reason))]
    Dataset {
        /// Its own words.
        reason: String,
    },
    /// A window of a user's making has another size than asked for.
    #[error(
        "the window has {} sequences of {} steps where {} of {} were asked for; give what the batcher returns the shape of \
         the layout", got[0], got[1], expected[0], expected[1]
    )]
    WindowShape {
        /// Sequences and steps of the window.
        got: [usize; 2],
        /// Those of the layout.
        expected: [usize; 2],
    },
    /// A download did not come through.
    #[error(
        "cannot download {url}: {cause}; check the network, put the files into {} yourself, \
         or train on the built-in corpus", cache.display()
    )]
    Download {
        /// The address.
        url: String,
        /// The folder where the file would have gone.
        cache: PathBuf,
        /// What the network answered.
        cause: String,
    },
    /// A download came through, with other content than expected.
    #[error(
        "{url} should have git blob id {expected}, but what arrived has {got} ({bytes} bytes); \
         try again, or choose another mirror"
    )]
    Checksum {
        /// The address.
        url: String,
        /// Expected git blob id.
        expected: String,
        /// Git blob id of what arrived.
        got: String,
        /// Bytes that arrived.
        bytes: u64,
    },
}

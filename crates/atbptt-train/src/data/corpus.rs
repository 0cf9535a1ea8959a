//! A text in three splits, as token ids.
//!
//! Word level: tokens are what white space separates, and every line ends with `<eos>`; an empty line is `<eos>`
//! alone. This is the preprocessing of Mikolov's Penn Treebank and of PyTorch's word language model.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::text::{for_each_line, io_error};
use super::token_file::TokenFileWriter;
use super::vocabulary::{END_OF_LINE, UNKNOWN, hex};
use super::{
    DataError, FileTokens, MemoryTokens, Preceded, SourceEntropy, Split, SyntheticConfig,
    TokenStore, Vocabulary, VocabularyRule,
};

/// How a folder is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CorpusOptions {
    /// Most tokens of the train split; `None` keeps all. Cut for quick trials.
    pub max_tokens: Option<usize>,
    /// Most tokens of valid and of test; `None` keeps all.
    pub max_eval_tokens: Option<usize>,
    /// Which splits may add words (those kept by the limits above).
    pub vocabulary: VocabularyRule,
}

impl CorpusOptions {
    /// Keeps at most `limit` tokens of the train split.
    pub fn with_max_tokens(mut self, limit: usize) -> Self {
        self.max_tokens = Some(limit);
        self
    }

    /// Keeps at most `limit` tokens of valid and of test.
    pub fn with_max_eval_tokens(mut self, limit: usize) -> Self {
        self.max_eval_tokens = Some(limit);
        self
    }

    /// Sets which splits may add words.
    pub fn with_vocabulary(mut self, rule: VocabularyRule) -> Self {
        self.vocabulary = rule;
        self
    }
}

/// A published text that is recognised by its token counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dataset {
    /// Penn Treebank in Mikolov's preprocessing.
    PennTreebank,
    /// WikiText-2, word level.
    WikiText2,
}

impl Dataset {
    const ALL: [Dataset; 2] = [Dataset::PennTreebank, Dataset::WikiText2];

    /// The name people use.
    pub const fn name(self) -> &'static str {
        match self {
            Dataset::PennTreebank => "Penn Treebank",
            Dataset::WikiText2 => "WikiText-2",
        }
    }

    /// Published tokens of train, valid and test, `<eos>` included.
    pub const fn tokens(self) -> [usize; 3] {
        match self {
            Dataset::PennTreebank => [929_589, 73_760, 82_430],
            Dataset::WikiText2 => [2_088_628, 217_646, 245_569],
        }
    }
}

/// Where a corpus came from.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Source {
    /// Text files.
    Folder {
        /// The folder.
        path: PathBuf,
        /// The published text that its valid and test splits are, if known.
        dataset: Option<Dataset>,
    },
    /// Texts that were not read from a folder.
    Readers,
    /// The built-in language: not real text.
    Synthetic {
        /// Its settings.
        config: SyntheticConfig,
        /// Entropy of the source on train, valid and test.
        entropy: [SourceEntropy; 3],
    },
}

/// Three splits of one text, their vocabulary and where they came from.
///
/// Cloning shares the tokens.
#[derive(Clone, Debug)]
pub struct Corpus {
    vocabulary: Vocabulary,
    splits: [Arc<dyn TokenStore>; 3],
    source: Source,
    fingerprint: String,
}

impl Corpus {
    /// Reads the three splits of `folder`; for the accepted names see [`Split::file_names`].
    ///
    /// Files are read line by line; what stays in memory is 4 bytes per token.
    ///
    /// # Errors
    ///
    /// [`DataError::FolderMissing`], [`DataError::SplitMissing`], [`DataError::EmptySplit`], [`DataError::NotUtf8`],
    /// [`DataError::Io`], [`DataError::VocabularyFull`], and [`DataError::ZeroLimit`] for a limit of no tokens.
    pub fn from_folder(
        folder: impl AsRef<Path>,
        options: &CorpusOptions,
    ) -> Result<Self, DataError> {
        Self::read_folder(folder.as_ref(), options, None)
    }

    /// [`from_folder`](Self::from_folder) for texts larger than memory: tokens go to files below `cache`, and stay there for the next
    /// time; in memory are the vocabulary and what a window needs.
    ///
    /// The files are found again by a hash of the text and the options, and their checksums are compared before they are used.
    /// Damaged ones are made anew.
    ///
    /// # Errors
    ///
    /// As [`from_folder`](Self::from_folder).
    pub fn from_large_folder(
        folder: impl AsRef<Path>,
        options: &CorpusOptions,
        cache: impl AsRef<Path>,
    ) -> Result<Self, DataError> {
        Self::read_folder(folder.as_ref(), options, Some(cache.as_ref()))
    }

    fn read_folder(
        folder: &Path,
        options: &CorpusOptions,
        cache: Option<&Path>,
    ) -> Result<Self, DataError> {
        if !folder.is_dir() {
            return Err(DataError::FolderMissing {
                path: folder.to_owned(),
            });
        }
        // All files are found before the first is read: a missing one should not cost a minute.
        let [train, valid, test] = Split::ALL.map(|split| split.find_in(folder));
        let paths = [train?, valid?, test?];
        let mut builder = Builder::new(options)?;
        if let Some(cache) = cache {
            let place = cache.join(content_key(options, &paths)?);
            if let Some(kept) = Kept::open(&place) {
                builder.vocabulary = kept.vocabulary;
                builder.splits = kept.splits;
                let source = builder.folder_source(folder);
                return Ok(builder.labelled(source, kept.fingerprint));
            }
            std::fs::create_dir_all(&place).map_err(|cause| io_error("create", &place, cause))?;
            builder.place = Some(place);
        }
        for (split, path) in Split::ALL.into_iter().zip(paths) {
            let file = File::open(&path).map_err(|cause| io_error("open", &path, cause))?;
            let origin = path.display().to_string();
            builder.read(split, BufReader::with_capacity(1 << 16, file), &origin)?;
        }
        let source = builder.folder_source(folder);
        builder.finish(source)
    }

    /// Reads train, valid and test, in this order, from anywhere: strings, archives, a network.
    ///
    /// ```
    /// use atbptt_train::data::{Corpus, CorpusOptions, Split};
    ///
    /// let texts = ["a b a\n", "b a\n", "a c\n"].map(str::as_bytes);
    /// let corpus = Corpus::from_readers(texts, &CorpusOptions::default())?;
    /// assert_eq!((corpus.len(Split::Train), corpus.vocabulary().id("c")), (4, Some(3)));
    /// # Ok::<(), atbptt_train::data::DataError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`DataError::EmptySplit`], [`DataError::NotUtf8`], [`DataError::Io`], [`DataError::VocabularyFull`], and
    /// [`DataError::ZeroLimit`] for a limit of no tokens.
    pub fn from_readers<R: BufRead>(
        texts: [R; 3],
        options: &CorpusOptions,
    ) -> Result<Self, DataError> {
        let mut builder = Builder::new(options)?;
        for (split, text) in Split::ALL.into_iter().zip(texts) {
            builder.read(split, text, &format!("the {} text", split.name()))?;
        }
        builder.finish(Source::Readers)
    }

    /// Generates the built-in corpus; the same settings give the same text on every platform.
    ///
    /// # Errors
    ///
    /// [`DataError::Synthetic`] when a setting is out of its range.
    pub fn synthetic(config: &SyntheticConfig) -> Result<Self, DataError> {
        let mut builder = Builder::new(&CorpusOptions::default())?;
        let mut entropy = [
            SourceEntropy::default(),
            SourceEntropy::default(),
            SourceEntropy::default(),
        ];
        for split in Split::ALL {
            let mut text = config.text(split)?;
            let mut reader = builder.split(split)?;
            for line in &mut text {
                reader.push_line(&line)?;
            }
            let tokens = reader.tokens;
            builder.keep(split, tokens, split.name())?;
            *split.of_mut(&mut entropy) = text.into_entropy();
        }
        builder.finish(Source::Synthetic {
            config: config.clone(),
            entropy,
        })
    }

    /// Words and their ids.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Tokens of a split, shared.
    pub fn tokens(&self, split: Split) -> Arc<dyn TokenStore> {
        split.of(&self.splits).clone()
    }

    /// Tokens of a split after an `<eos>`: a stream over them predicts every token of the split once, the first included.
    ///
    /// [`TokenStream::exact`](super::TokenStream::exact) lays them out for evaluation.
    pub fn evaluation_tokens(&self, split: Split) -> Arc<dyn TokenStore> {
        match self.vocabulary.id(END_OF_LINE) {
            Some(id) => Arc::new(Preceded::new(id, self.tokens(split))),
            None => self.tokens(split),
        }
    }

    /// Number of tokens of a split, `<eos>` included.
    pub fn len(&self, split: Split) -> usize {
        split.of(&self.splits).len()
    }

    /// Where the text came from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Entropy of the source on a split, where it is known (the built-in corpus): what no model can beat.
    pub fn source_entropy(&self, split: Split) -> Option<&SourceEntropy> {
        match &self.source {
            Source::Synthetic { entropy, .. } => Some(split.of(entropy)),
            Source::Folder { .. } | Source::Readers => None,
        }
    }

    /// SHA-256, in hexadecimal, of the vocabulary and all tokens.
    ///
    /// A checkpoint stores it; a run that resumes on other data is caught by comparing.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// One line for logs and reports: which text this is, how large, and whether perplexities compare with published ones.
    pub fn description(&self) -> String {
        let counts = Split::ALL.map(|split| grouped(self.len(split)));
        let sizes = format!(
            "{} train / {} valid / {} test tokens, {} types",
            counts[0],
            counts[1],
            counts[2],
            grouped(self.vocabulary.len())
        );
        match &self.source {
            Source::Synthetic { config, .. } => {
                let distances: Vec<_> = config.distances.iter().map(usize::to_string).collect();
                format!(
                    "built-in synthetic corpus (seed {}, agreement over {} steps; {sizes}): NOT real text",
                    config.seed,
                    distances.join(", ")
                )
            }
            Source::Readers => format!("text in memory ({sizes})"),
            Source::Folder {
                path,
                dataset: None,
            } => format!("text of {} ({sizes})", path.display()),
            Source::Folder {
                path,
                dataset: Some(dataset),
            } => {
                let text = format!("{} of {} ({sizes})", dataset.name(), path.display());
                let full = dataset.tokens()[0];
                if self.len(Split::Train) == full {
                    return text;
                }
                let full = grouped(full);
                format!(
                    "{text}: the train split is not the full {full} tokens, so perplexity is not comparable with \
                     published numbers"
                )
            }
        }
    }
}

/// Collects vocabulary and tokens, split by split.
struct Builder {
    options: CorpusOptions,
    vocabulary: Vocabulary,
    splits: [Arc<dyn TokenStore>; 3],
    /// Where token files go; in memory without.
    place: Option<PathBuf>,
}

impl Builder {
    fn new(options: &CorpusOptions) -> Result<Self, DataError> {
        if options.max_tokens == Some(0) || options.max_eval_tokens == Some(0) {
            return Err(DataError::ZeroLimit);
        }
        Ok(Self {
            options: *options,
            vocabulary: Vocabulary::default(),
            splits: std::array::from_fn(|_| Arc::new(MemoryTokens::default()) as _),
            place: None,
        })
    }

    fn split(&mut self, split: Split) -> Result<LineReader<'_>, DataError> {
        let train = split == Split::Train;
        let limit = if train {
            self.options.max_tokens
        } else {
            self.options.max_eval_tokens
        };
        let tokens = match &self.place {
            Some(place) => Sink::File(TokenFileWriter::create(&token_path(place, split))?),
            None => Sink::Memory(Vec::new()),
        };
        Ok(LineReader {
            grows: train || self.options.vocabulary == VocabularyRule::AllSplits,
            limit: limit.unwrap_or(usize::MAX),
            vocabulary: &mut self.vocabulary,
            count: 0,
            tokens,
        })
    }

    /// Reads all lines of a split.
    fn read(&mut self, split: Split, text: impl BufRead, origin: &str) -> Result<(), DataError> {
        let mut reader = self.split(split)?;
        for_each_line(text, origin, |line| reader.push_line(line))?;
        let tokens = reader.tokens;
        self.keep(split, tokens, origin)
    }

    fn keep(&mut self, split: Split, tokens: Sink, origin: &str) -> Result<(), DataError> {
        let tokens: Arc<dyn TokenStore> = match tokens {
            Sink::Memory(tokens) => Arc::new(MemoryTokens::from(tokens)),
            Sink::File(writer) => Arc::new(writer.finish()?),
        };
        if tokens.is_empty() {
            return Err(DataError::EmptySplit {
                origin: origin.to_owned(),
            });
        }
        if split == Split::Train && self.options.vocabulary == VocabularyRule::TrainOnly {
            // Valid and test may need both, even where a short train split has neither.
            self.vocabulary.add(END_OF_LINE)?;
            self.vocabulary.add(UNKNOWN)?;
        }
        *split.of_mut(&mut self.splits) = tokens;
        Ok(())
    }

    fn lengths(&self) -> [usize; 3] {
        Split::ALL.map(|split| split.of(&self.splits).len())
    }

    /// A folder, with the published text that its sizes give away.
    fn folder_source(&self, folder: &Path) -> Source {
        let [_, valid, test] = self.lengths();
        let dataset = Dataset::ALL
            .into_iter()
            .find(|known| known.tokens()[1..] == [valid, test]);
        Source::Folder {
            path: folder.to_owned(),
            dataset,
        }
    }

    fn finish(self, source: Source) -> Result<Corpus, DataError> {
        let mut hasher = Sha256::new();
        self.vocabulary.hash_into(&mut hasher);
        for tokens in &self.splits {
            hasher.update((tokens.len() as u64).to_le_bytes());
            let mut part = vec![0; 1 << 16];
            let mut start = 0;
            while start < tokens.len() {
                part.truncate(tokens.len() - start);
                tokens.read(start, &mut part)?;
                let bytes: Vec<u8> = part.iter().flat_map(|id| id.to_le_bytes()).collect();
                hasher.update(&bytes);
                start += part.len();
            }
        }
        let fingerprint = hex(&hasher.finalize());
        if let Some(place) = &self.place {
            Kept::write(place, &self.vocabulary, &fingerprint)?;
        }
        Ok(self.labelled(source, fingerprint))
    }

    fn labelled(self, source: Source, fingerprint: String) -> Corpus {
        Corpus {
            vocabulary: self.vocabulary,
            splits: self.splits,
            source,
            fingerprint,
        }
    }
}

/// Where tokens go while a split is read.
enum Sink {
    Memory(Vec<u32>),
    File(TokenFileWriter),
}

/// Turns lines into tokens.
struct LineReader<'a> {
    vocabulary: &'a mut Vocabulary,
    grows: bool,
    limit: usize,
    count: usize,
    tokens: Sink,
}

impl LineReader<'_> {
    /// Adds a line and its `<eos>`; answers whether more tokens are wanted.
    fn push_line(&mut self, line: &str) -> Result<bool, DataError> {
        for word in line.split_whitespace().chain([END_OF_LINE]) {
            if self.count == self.limit {
                return Ok(false);
            }
            let known = if self.grows {
                None
            } else {
                self.vocabulary
                    .id(word)
                    .or_else(|| self.vocabulary.id(UNKNOWN))
            };
            let id = known.map_or_else(|| self.vocabulary.add(word), Ok)?;
            match &mut self.tokens {
                Sink::Memory(tokens) => tokens.push(id),
                Sink::File(writer) => writer.push(id)?,
            }
            self.count += 1;
        }
        Ok(self.count < self.limit)
    }
}

fn token_path(place: &Path, split: Split) -> PathBuf {
    place.join(format!("{}.tokens", split.name()))
}

/// SHA-256 of the files and of the options that shape the tokens.
fn content_key(options: &CorpusOptions, paths: &[PathBuf; 3]) -> Result<String, DataError> {
    let mut hasher = Sha256::new();
    hasher.update(format!("tokens 1 {options:?}"));
    for path in paths {
        let mut file = File::open(path).map_err(|cause| io_error("open", path, cause))?;
        let mut content = Sha256::new();
        std::io::copy(&mut file, &mut content).map_err(|cause| io_error("read", path, cause))?;
        hasher.update(content.finalize());
    }
    Ok(hex(&hasher.finalize()))
}

/// Token files of an earlier time.
struct Kept {
    vocabulary: Vocabulary,
    splits: [Arc<dyn TokenStore>; 3],
    fingerprint: String,
}

impl Kept {
    /// `None` when there are none, or one of them is damaged.
    fn open(place: &Path) -> Option<Self> {
        let index = std::fs::read(place.join("vocabulary.json")).ok()?;
        let (vocabulary, fingerprint, seal): (Vocabulary, String, String) =
            serde_json::from_slice(&index).ok()?;
        if seal != Self::seal(&vocabulary, &fingerprint) {
            log::warn!("{} is damaged; it is made again", place.display());
            return None;
        }
        let open = |split| match FileTokens::open(token_path(place, split)) {
            Ok(tokens) => Some(Arc::new(tokens) as Arc<dyn TokenStore>),
            Err(error) => {
                log::warn!("{error}");
                None
            }
        };
        let [train, valid, test] = Split::ALL.map(open);
        Some(Self {
            vocabulary,
            splits: [train?, valid?, test?],
            fingerprint,
        })
    }

    /// Checksum of what the token files' checksums do not cover.
    fn seal(vocabulary: &Vocabulary, fingerprint: &str) -> String {
        let mut hasher = Sha256::new();
        vocabulary.hash_into(&mut hasher);
        hasher.update(fingerprint);
        hex(&hasher.finalize())
    }

    /// The last file to be written: without it the others do not count.
    fn write(place: &Path, vocabulary: &Vocabulary, fingerprint: &str) -> Result<(), DataError> {
        let path = place.join("vocabulary.json");
        let temporary = path.with_extension("tmp");
        let fail = |cause| io_error("write", &path, cause);
        let seal = Self::seal(vocabulary, fingerprint);
        let text = serde_json::to_vec(&(vocabulary, fingerprint, seal));
        let text = text.map_err(|e| fail(e.into()))?;
        std::fs::write(&temporary, text)
            .and_then(|()| File::open(&temporary)?.sync_all())
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(fail)
    }
}

/// 1234567 as `1,234,567`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
#[path = "corpus_tests.rs"]
mod tests;

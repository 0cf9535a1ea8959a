//! A text in three splits, as token ids.
//!
//! Words are what white space separates, and every line ends with `<eos>`; an empty line is `<eos>` alone. This is the
//! preprocessing of Mikolov's Penn Treebank and of PyTorch's word language model. Characters and bytes: [`TokenUnit`].

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::builder::Builder;
use super::corpus_options::CorpusOptions;
use super::corpus_source::{Source, folder_source};
use super::kept::Kept;
use super::store::Preceded;
use super::synthetic::SourceEntropy;
use super::text::io_error;
use super::tokenizer::Tokens;
use super::vocabulary::hex;
use super::{DataError, Split, SyntheticConfig, TokenStore, TokenUnit, Tokenizer, Vocabulary};

/// Three splits of one text, their vocabulary and where they came from.
///
/// Cloning shares the tokens.
#[derive(Clone, Debug)]
pub struct Corpus {
    vocabulary: Vocabulary,
    splits: [Arc<dyn TokenStore>; 3],
    source: Source,
    fingerprint: String,
    tokens: Tokens,
    warnings: Vec<String>,
}

impl Corpus {
    /// Reads the three splits of `folder`; for the accepted names see [`Split::file_names`].
    ///
    /// Files are read block by block, however long their lines; what stays in memory is 4 bytes per token.
    ///
    /// # Errors
    ///
    /// [`DataError::FolderMissing`], [`DataError::SplitMissing`], [`DataError::EmptySplit`], [`DataError::NotUtf8`],
    /// [`DataError::Io`], [`DataError::VocabularyFull`], and [`DataError::ZeroLimit`] for a limit of no tokens.
    pub fn from_folder(
        folder: impl AsRef<Path>,
        options: &CorpusOptions,
    ) -> Result<Self, DataError> {
        Self::read_folder(folder.as_ref(), options, None, None)
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
        Self::read_folder(folder.as_ref(), options, None, Some(cache.as_ref()))
    }

    /// [`from_folder`](Self::from_folder) with a tokeniser of one's own; of the options, the limits matter. With a `cache`,
    /// tokens go to files, as in [`from_large_folder`](Self::from_large_folder).
    ///
    /// # Errors
    ///
    /// As [`from_folder`](Self::from_folder), and [`DataError::Tokenizer`] as the tokeniser raises it.
    pub fn from_folder_with(
        folder: impl AsRef<Path>,
        tokenizer: Arc<dyn Tokenizer>,
        options: &CorpusOptions,
        cache: Option<&Path>,
    ) -> Result<Self, DataError> {
        Self::read_folder(folder.as_ref(), options, Some(tokenizer), cache)
    }

    fn read_folder(
        folder: &Path,
        options: &CorpusOptions,
        tokenizer: Option<Arc<dyn Tokenizer>>,
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
        let mut builder = Builder::new(options, tokenizer)?;
        let tokens = builder.tokens().clone();
        if let Some(cache) = cache {
            let place = cache.join(content_key(options, &tokens, &paths)?);
            if let Some(kept) = Kept::open(&place) {
                let source = folder_source(folder, &kept.splits);
                return Ok(Self::of_kept(kept, source, tokens));
            }
            std::fs::create_dir_all(&place).map_err(|cause| io_error("create", &place, cause))?;
            builder.place = Some(place);
        }
        for (split, path) in Split::ALL.into_iter().zip(paths) {
            let file = File::open(&path).map_err(|cause| io_error("open", &path, cause))?;
            builder.read(split, file, &path.display().to_string())?;
        }
        let kept = builder.finish()?;
        let source = folder_source(folder, &kept.splits);
        Ok(Self::of_kept(kept, source, tokens))
    }

    fn of_kept(kept: Kept, source: Source, tokens: Tokens) -> Self {
        let Kept {
            vocabulary,
            splits,
            fingerprint,
            warnings,
        } = kept;
        for warning in &warnings {
            log::warn!("{warning}");
        }
        Self {
            vocabulary,
            splits,
            source,
            fingerprint,
            tokens,
            warnings,
        }
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
    pub fn from_readers<R: Read>(
        texts: [R; 3],
        options: &CorpusOptions,
    ) -> Result<Self, DataError> {
        Self::read_texts(texts, options, None)
    }

    /// [`from_readers`](Self::from_readers) with a tokeniser of one's own; of the options, the limits matter.
    ///
    /// # Errors
    ///
    /// As [`from_readers`](Self::from_readers), and [`DataError::Tokenizer`] as the tokeniser raises it.
    pub fn from_readers_with<R: Read>(
        texts: [R; 3],
        tokenizer: Arc<dyn Tokenizer>,
        options: &CorpusOptions,
    ) -> Result<Self, DataError> {
        Self::read_texts(texts, options, Some(tokenizer))
    }

    fn read_texts<R: Read>(
        texts: [R; 3],
        options: &CorpusOptions,
        tokenizer: Option<Arc<dyn Tokenizer>>,
    ) -> Result<Self, DataError> {
        let mut builder = Builder::new(options, tokenizer)?;
        let tokens = builder.tokens().clone();
        for (split, text) in Split::ALL.into_iter().zip(texts) {
            builder.read(split, text, &format!("the {} text", split.name()))?;
        }
        let kept = builder.finish()?;
        Ok(Self::of_kept(kept, Source::Readers, tokens))
    }

    /// Generates the built-in corpus; the same settings give the same text on every platform.
    ///
    /// # Errors
    ///
    /// [`DataError::Synthetic`] when a setting is out of its range.
    pub fn synthetic(config: &SyntheticConfig) -> Result<Self, DataError> {
        let mut builder = Builder::new(&CorpusOptions::default(), None)?;
        let mut entropy = [
            SourceEntropy::default(),
            SourceEntropy::default(),
            SourceEntropy::default(),
        ];
        for split in Split::ALL {
            let mut text = config.text(split)?;
            builder.read_lines(split, &mut text, split.name())?;
            *split.of_mut(&mut entropy) = text.into_entropy();
        }
        let source = Source::Synthetic {
            config: config.clone(),
            entropy,
        };
        let tokens = Tokens::Unit(TokenUnit::Words);
        Ok(Self::of_kept(builder.finish()?, source, tokens))
    }

    /// Words and their ids.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Tokens of a split, shared.
    pub fn tokens(&self, split: Split) -> Arc<dyn TokenStore> {
        split.of(&self.splits).clone()
    }

    /// What one token is; `None` where a tokeniser of one's own says so.
    pub fn unit(&self) -> Option<TokenUnit> {
        match &self.tokens {
            Tokens::Unit(unit) => Some(*unit),
            Tokens::Own(_) => None,
        }
    }

    /// The tokeniser of one's own that cut the text, if one did.
    pub fn tokenizer(&self) -> Option<&Arc<dyn Tokenizer>> {
        match &self.tokens {
            Tokens::Unit(_) => None,
            Tokens::Own(tokenizer) => Some(tokenizer),
        }
    }

    /// Text of a token sequence.
    ///
    /// # Errors
    ///
    /// [`DataError::Tokenizer`] from a tokeniser of one's own.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, DataError> {
        self.tokens.decode(&self.vocabulary, tokens)
    }

    /// What is odd about the text, with remedies, for programs to show: lines of one word each, for instance, as a text
    /// without blanks has them. They also go to the log.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Tokens of a split after an `<eos>`, or the end of a line: a stream over them predicts every token of the split once,
    /// the first included.
    ///
    /// [`Corpus::evaluation`] reads them.
    pub fn evaluation_tokens(&self, split: Split) -> Arc<dyn TokenStore> {
        match self.end_of_line() {
            Some(id) => Arc::new(Preceded::new(id, self.tokens(split))),
            None => self.tokens(split),
        }
    }

    /// The token at the end of every line, if the vocabulary has one.
    pub(crate) fn end_of_line(&self) -> Option<u32> {
        self.tokens.end_of_line(&self.vocabulary)
    }

    /// Number of tokens of a split, `<eos>` included.
    pub fn len(&self, split: Split) -> usize {
        split.of(&self.splits).len()
    }

    /// The perplexity that no model can beat on a split, where it is known (the built-in corpus): that of a reader who knows the
    /// language perfectly, on this very text.
    pub fn perplexity_floor(&self, split: Split) -> Option<f64> {
        self.source_entropy(split).map(SourceEntropy::perplexity)
    }

    pub(super) fn source_entropy(&self, split: Split) -> Option<&SourceEntropy> {
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

/// SHA-256 of the files and of the options that shape the tokens.
fn content_key(
    options: &CorpusOptions,
    tokens: &Tokens,
    paths: &[PathBuf; 3],
) -> Result<String, DataError> {
    let mut hasher = Sha256::new();
    hasher.update(format!("tokens 2 {options:?} {}", tokens.fingerprint()));
    for path in paths {
        let mut file = File::open(path).map_err(|cause| io_error("open", path, cause))?;
        let mut content = Sha256::new();
        std::io::copy(&mut file, &mut content).map_err(|cause| io_error("read", path, cause))?;
        hasher.update(content.finalize());
    }
    Ok(hex(&hasher.finalize()))
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

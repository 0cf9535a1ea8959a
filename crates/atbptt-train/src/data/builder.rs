//! From texts to token ids: vocabulary and tokens, collected split by split.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::corpus_options::CorpusOptions;
use super::kept::{Kept, token_path};
use super::text::{
    Piece, for_each_byte, for_each_character, for_each_part_of_lines, for_each_word, io_error,
};
use super::token_file::TokenFileWriter;
use super::tokenizer::Tokens;
use super::vocabulary::{END_OF_LINE, UNKNOWN, hex};
use super::{DataError, Split, TokenStore, TokenUnit, Tokenizer, Vocabulary};

/// Collects vocabulary and tokens, split by split.
pub(super) struct Builder {
    options: CorpusOptions,
    tokens: Tokens,
    vocabulary: Vocabulary,
    /// How often each word stands in the splits that may add words.
    counts: Vec<usize>,
    splits: [Arc<dyn TokenStore>; 3],
    warnings: Vec<String>,
    /// Where token files go; in memory without.
    pub(super) place: Option<PathBuf>,
}

impl Builder {
    /// By the unit of `options`, or by a tokeniser, whose vocabulary is what it is.
    pub(super) fn new(
        options: &CorpusOptions,
        tokenizer: Option<Arc<dyn Tokenizer>>,
    ) -> Result<Self, DataError> {
        if options.max_tokens == Some(0) || options.max_eval_tokens == Some(0) {
            return Err(DataError::ZeroLimit);
        }
        Ok(Self {
            options: *options,
            vocabulary: match &tokenizer {
                Some(tokenizer) => tokenizer.vocabulary()?,
                None => options.unit.beginning()?,
            },
            tokens: match tokenizer {
                Some(tokenizer) => Tokens::Own(tokenizer),
                None => Tokens::Unit(options.unit),
            },
            counts: Vec::new(),
            splits: std::array::from_fn(|_| no_tokens()),
            warnings: Vec::new(),
            place: None,
        })
    }

    pub(super) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Whether the vocabulary is that of the texts.
    fn learns_words(&self) -> bool {
        matches!(
            self.tokens,
            Tokens::Unit(TokenUnit::Words | TokenUnit::Characters)
        )
    }

    /// Whether words are left out once all splits are read.
    fn leaves_out(&self) -> bool {
        self.options.min_count > 1 && self.learns_words()
    }

    fn split(&mut self, split: Split) -> Result<TokenReader<'_>, DataError> {
        let train = split == Split::Train;
        let limit = if train {
            self.options.max_tokens
        } else {
            self.options.max_eval_tokens
        };
        let tokens = match &self.place {
            Some(place) if self.leaves_out() => {
                Sink::File(TokenFileWriter::create(&all_words_path(place, split))?)
            }
            Some(place) => Sink::File(TokenFileWriter::create(&token_path(place, split))?),
            None => Sink::Memory(Vec::new()),
        };
        Ok(TokenReader {
            grows: train || !self.options.words_of_train_only,
            limit: limit.unwrap_or(usize::MAX),
            vocabulary: &mut self.vocabulary,
            counts: &mut self.counts,
            count: 0,
            tokens,
            lines: Lines::default(),
        })
    }

    /// Reads all of a split.
    pub(super) fn read(
        &mut self,
        split: Split,
        text: impl Read,
        origin: &str,
    ) -> Result<(), DataError> {
        let tokens = self.tokens.clone();
        let mut reader = self.split(split)?;
        match tokens {
            Tokens::Unit(TokenUnit::Words) => {
                for_each_word(text, origin, |piece| reader.push_piece(piece))?;
            }
            Tokens::Unit(TokenUnit::Characters) => {
                for_each_character(text, origin, |character| reader.push_word(character))?;
            }
            Tokens::Unit(TokenUnit::Bytes) => {
                for_each_byte(text, origin, |byte| reader.push_id(u32::from(byte)))?;
            }
            Tokens::Own(tokenizer) => {
                let mut ids = Vec::new();
                for_each_part_of_lines(text, origin, |part| {
                    ids.clear();
                    tokenizer.encode(part, &mut ids)?;
                    reader.push_known(&ids)
                })?;
            }
        }
        let (tokens, warning) = (reader.tokens, reader.lines.warning(origin));
        self.warnings.extend(warning);
        self.keep(split, tokens, origin)
    }

    /// Takes a split's lines of words from memory.
    pub(super) fn read_lines(
        &mut self,
        split: Split,
        lines: &mut dyn Iterator<Item = String>,
        origin: &str,
    ) -> Result<(), DataError> {
        let mut reader = self.split(split)?;
        for line in lines {
            for word in line.split_whitespace() {
                reader.push_piece(Piece::Word(word))?;
            }
            reader.push_piece(Piece::EndOfLine)?;
        }
        let tokens = reader.tokens;
        self.keep(split, tokens, origin)
    }

    fn keep(&mut self, split: Split, tokens: Sink, origin: &str) -> Result<(), DataError> {
        let tokens = tokens.finish()?;
        if tokens.is_empty() {
            return Err(DataError::EmptySplit {
                origin: origin.to_owned(),
            });
        }
        let of_train = self.options.words_of_train_only;
        if split == Split::Train && of_train && self.learns_words() {
            // Valid and test may need both, even where a short train split has neither.
            self.vocabulary.add(self.options.unit.always())?;
            self.vocabulary.add(UNKNOWN)?;
        }
        *split.of_mut(&mut self.splits) = tokens;
        Ok(())
    }

    /// Replaces rare words by `<unk>`; the others keep their order.
    fn leave_out_rare_words(&mut self) -> Result<(), DataError> {
        let always = [self.options.unit.always(), UNKNOWN];
        let mut vocabulary = Vocabulary::default();
        let mut kept = Vec::with_capacity(self.vocabulary.len());
        for (id, word) in self.vocabulary.words().iter().enumerate() {
            let count = self.counts.get(id).copied().unwrap_or(0);
            let keep = count >= self.options.min_count || always.contains(&word.as_str());
            kept.push(keep.then(|| vocabulary.add(word)).transpose()?);
        }
        let unknown = vocabulary.add(UNKNOWN)?;
        for split in Split::ALL {
            let mut sink = match &self.place {
                Some(place) => Sink::File(TokenFileWriter::create(&token_path(place, split))?),
                None => Sink::Memory(Vec::new()),
            };
            let old = std::mem::replace(split.of_mut(&mut self.splits), no_tokens());
            for_each_part(&*old, |part| {
                for &token in part {
                    let new = kept.get(token as usize).copied().flatten();
                    sink.push(new.unwrap_or(unknown))?;
                }
                Ok(())
            })?;
            drop(old);
            *split.of_mut(&mut self.splits) = sink.finish()?;
            if let Some(place) = &self.place {
                let path = all_words_path(place, split);
                std::fs::remove_file(&path).map_err(|cause| io_error("remove", &path, cause))?;
            }
        }
        self.vocabulary = vocabulary;
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Kept, DataError> {
        if self.leaves_out() {
            self.leave_out_rare_words()?;
        }
        let mut hasher = Sha256::new();
        self.vocabulary.hash_into(&mut hasher);
        for tokens in &self.splits {
            hasher.update((tokens.len() as u64).to_le_bytes());
            for_each_part(&**tokens, |part| {
                let bytes: Vec<u8> = part.iter().flat_map(|id| id.to_le_bytes()).collect();
                hasher.update(&bytes);
                Ok(())
            })?;
        }
        let kept = Kept {
            vocabulary: self.vocabulary,
            splits: self.splits,
            fingerprint: hex(&hasher.finalize()),
            warnings: self.warnings,
        };
        if let Some(place) = &self.place {
            kept.write(place)?;
        }
        Ok(kept)
    }
}

/// Reads a store from start to end, a part at a time.
fn for_each_part(
    tokens: &dyn TokenStore,
    mut take: impl FnMut(&[u32]) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut part = vec![0; 1 << 16];
    let mut start = 0;
    while start < tokens.len() {
        part.truncate(tokens.len() - start);
        tokens.read(start, &mut part)?;
        take(&part)?;
        start += part.len();
    }
    Ok(())
}

/// Where tokens go while a split is read.
enum Sink {
    Memory(Vec<u32>),
    File(TokenFileWriter),
}

/// A split before its text is read.
fn no_tokens() -> Arc<dyn TokenStore> {
    Arc::new(Vec::new())
}

impl Sink {
    fn push(&mut self, id: u32) -> Result<(), DataError> {
        match self {
            Self::Memory(tokens) => {
                tokens.push(id);
                Ok(())
            }
            Self::File(writer) => writer.push(id),
        }
    }

    fn finish(self) -> Result<Arc<dyn TokenStore>, DataError> {
        Ok(match self {
            Self::Memory(tokens) => Arc::new(tokens),
            Self::File(writer) => Arc::new(writer.finish()?),
        })
    }
}

/// Turns words into tokens.
struct TokenReader<'a> {
    vocabulary: &'a mut Vocabulary,
    counts: &'a mut Vec<usize>,
    grows: bool,
    limit: usize,
    count: usize,
    tokens: Sink,
    lines: Lines,
}

impl TokenReader<'_> {
    /// Adds a word or the end of a line; answers whether more tokens are wanted.
    fn push_piece(&mut self, piece: Piece<'_>) -> Result<bool, DataError> {
        self.lines.count(piece);
        match piece {
            Piece::Word(word) => self.push_word(word),
            Piece::EndOfLine => self.push_word(END_OF_LINE),
        }
    }

    fn push_word(&mut self, word: &str) -> Result<bool, DataError> {
        let known = if self.grows {
            None
        } else {
            self.vocabulary
                .id(word)
                .or_else(|| self.vocabulary.id(UNKNOWN))
        };
        let id = known.map_or_else(|| self.vocabulary.add(word), Ok)?;
        if self.grows {
            let at = id as usize;
            if self.counts.len() <= at {
                self.counts.resize(at + 1, 0);
            }
            if let Some(count) = self.counts.get_mut(at) {
                *count += 1;
            }
        }
        self.push_id(id)
    }

    /// Adds ids of a tokeniser, which must be in its vocabulary.
    fn push_known(&mut self, ids: &[u32]) -> Result<bool, DataError> {
        for &id in ids {
            if self.vocabulary.word(id).is_none() {
                return Err(DataError::Tokenizer {
                    reason: format!(
                        "id {id} is not in its vocabulary of {} tokens",
                        self.vocabulary.len()
                    ),
                });
            }
            if !self.push_id(id)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn push_id(&mut self, id: u32) -> Result<bool, DataError> {
        self.tokens.push(id)?;
        self.count += 1;
        Ok(self.count < self.limit)
    }
}

/// How many words the lines of a text have.
#[derive(Default)]
struct Lines {
    words: usize,
    with_words: usize,
    of_one_word: usize,
}

impl Lines {
    fn count(&mut self, piece: Piece<'_>) {
        match piece {
            Piece::Word(_) => self.words += 1,
            Piece::EndOfLine => {
                self.with_words += usize::from(self.words > 0);
                self.of_one_word += usize::from(self.words == 1);
                self.words = 0;
            }
        }
    }

    /// A text whose lines are one word each is hardly a text of words.
    fn warning(&self, origin: &str) -> Option<String> {
        const ENOUGH: usize = 10;
        let odd = self.with_words >= ENOUGH && self.of_one_word * 20 >= self.with_words * 19;
        odd.then(|| {
            format!(
                "{origin}: {} of {} lines are one word each, so that words are whole lines; a text without blanks, such as \
                 Chinese, is read as characters",
                self.of_one_word, self.with_words
            )
        })
    }
}

/// Tokens before rare words are left out.
fn all_words_path(place: &Path, split: Split) -> PathBuf {
    place.join(format!("{}-all-words.tokens", split.name()))
}

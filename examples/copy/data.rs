//! The copy task: parallel sequences of symbols, from digit files or generated.
//!
//! A sequence is made of blocks of 2m steps. The input of a block: the marker 1, then m − 1 random symbols from 2 on, then
//! m blanks (0); the target: m blanks, then the first half of the input again. So every target was seen m steps before.
//! m is fixed, or drawn anew for every block; sequences start anywhere in a block.
//!
//! The digit files hold one line per step and one digit per sequence, inputs and targets apart. In the files that Aicher et
//! al. (2019) released, blocks are cut short towards the end of every sequence (about the last tenth of the training data
//! and the last half of the others): symbols follow that are never asked for. A perplexity of 1 is out of reach there.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atbptt::models::TokenBatch;
use atbptt::train::data::DataError;
use atbptt::train::{SequenceSource, TrainError};
use burn::tensor::Device;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What can be wrong with symbols.
#[derive(Debug, thiserror::Error)]
pub enum SymbolError {
    #[error("cannot read {}: {cause}; a copy folder holds train_input.txt, train_target.txt and the same for valid and test", path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error("{} line {line}, column {column}: symbols are the digits 0 to {largest}, got {found:?}; check the file or --symbols", path.display())]
    NotASymbol {
        path: PathBuf,
        line: usize,
        column: usize,
        found: char,
        largest: usize,
    },
    #[error("{} line {line} has {got} sequences, line 1 has {expected}; every line holds one digit per sequence", path.display())]
    Ragged {
        path: PathBuf,
        line: usize,
        expected: usize,
        got: usize,
    },
    #[error("{} has {steps} steps of {sequences} sequences, and its targets in {} have {target_steps} of {target_sequences}; inputs and targets belong together", inputs.display(), targets.display())]
    Unequal {
        inputs: PathBuf,
        targets: PathBuf,
        steps: usize,
        sequences: usize,
        target_steps: usize,
        target_sequences: usize,
    },
    #[error("{} is empty; it needs one line per step", path.display())]
    Empty { path: PathBuf },
    #[error("{what} must be {rule}, got {got}")]
    Setting {
        what: &'static str,
        rule: String,
        got: usize,
    },
}

/// Parallel sequences of input and target symbols, all of the same length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolSequences {
    /// `[time, sequence]`, row-major.
    inputs: Vec<u8>,
    targets: Vec<u8>,
    sequences: usize,
}

/// SHA-256, in hexadecimal, of the symbols of all `splits`: a run goes on with the data it began with.
pub fn content_hash(splits: [&SymbolSequences; 3]) -> String {
    let mut hasher = Sha256::new();
    for split in splits {
        hasher.update((split.sequences as u64).to_le_bytes());
        for symbols in [&split.inputs, &split.targets] {
            hasher.update((symbols.len() as u64).to_le_bytes());
            hasher.update(symbols);
        }
    }
    format!("{:x}", hasher.finalize())
}

/// How to generate the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyTask {
    /// Smallest and largest memory m, in steps.
    pub memory: (usize, usize),
    /// Number of different symbols, blank and marker among them: at least 3.
    pub symbols: usize,
    /// Number of sequences.
    pub sequences: usize,
}

/// A longer one is a mistake: no sequence would hold a block of it.
const LONGEST_MEMORY: usize = 1_000_000;

/// More would not fit the memory.
const MAX_SYMBOLS: usize = 10_000_000_000;

fn setting(what: &'static str, rule: &str, got: usize) -> SymbolError {
    SymbolError::Setting {
        what,
        rule: rule.into(),
        got,
    }
}

fn check_symbols(symbols: usize) -> Result<(), SymbolError> {
    match (3..=255).contains(&symbols) {
        true => Ok(()),
        false => Err(setting(
            "the number of symbols (--symbols)",
            "between 3 and 255: a blank, a marker and symbols to remember",
            symbols,
        )),
    }
}

impl CopyTask {
    fn check(&self) -> Result<(), SymbolError> {
        let (least, most) = self.memory;
        if !(1..=LONGEST_MEMORY).contains(&most) {
            return Err(setting(
                "the memory length (--memory)",
                "between 1 and 1000000 steps",
                most,
            ));
        }
        if least == 0 || least > most {
            return Err(setting(
                "the smallest memory (--min-memory)",
                &format!("between 1 and the memory length of {most}"),
                least,
            ));
        }
        check_symbols(self.symbols)?;
        if self.sequences == 0 {
            return Err(setting(
                "the number of sequences (--batch)",
                "at least 1",
                0,
            ));
        }
        Ok(())
    }

    /// `steps` steps of every sequence, a function of `seed`.
    pub fn generate(&self, steps: usize, seed: u64) -> Result<SymbolSequences, SymbolError> {
        self.check()?;
        if steps
            .checked_mul(self.sequences)
            .is_none_or(|all| all > MAX_SYMBOLS)
        {
            return Err(setting(
                "the number of steps (--steps)",
                "such that all sequences together have at most 10000000000 of them",
                steps,
            ));
        }
        let mut rng = Pcg64::seed_from_u64(seed);
        let mut inputs = vec![0; steps * self.sequences];
        let mut targets = inputs.clone();
        let largest = (self.symbols - 1) as u8;
        for sequence in 0..self.sequences {
            let skipped = rng.random_range(0..2 * self.memory.1);
            let mut step = 0;
            while step < skipped + steps {
                let memory = rng.random_range(self.memory.0..=self.memory.1);
                for i in 0..memory {
                    let symbol = match i {
                        0 => 1,
                        _ => rng.random_range(2..=largest),
                    };
                    for (column, at) in [(&mut inputs, step + i), (&mut targets, step + memory + i)]
                    {
                        if (skipped..skipped + steps).contains(&at) {
                            column[(at - skipped) * self.sequences + sequence] = symbol;
                        }
                    }
                }
                step += 2 * memory;
            }
        }
        Ok(SymbolSequences {
            inputs,
            targets,
            sequences: self.sequences,
        })
    }
}

impl SymbolSequences {
    /// Reads `{split}_input.txt` and `{split}_target.txt`; digits below `symbols`.
    pub fn from_folder(folder: &Path, split: &str, symbols: usize) -> Result<Self, SymbolError> {
        check_symbols(symbols)?;
        let file = |part: &str| folder.join(format!("{split}_{part}.txt"));
        let (input_path, target_path) = (file("input"), file("target"));
        let (inputs, sequences) = read_digits(&input_path, symbols)?;
        let (targets, target_sequences) = read_digits(&target_path, symbols)?;
        let (steps, target_steps) = (inputs.len() / sequences, targets.len() / target_sequences);
        if (steps, sequences) != (target_steps, target_sequences) {
            return Err(SymbolError::Unequal {
                inputs: input_path,
                targets: target_path,
                steps,
                sequences,
                target_steps,
                target_sequences,
            });
        }
        Ok(Self {
            inputs,
            targets,
            sequences,
        })
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.inputs.len() / self.sequences
    }

    /// Input and target of a sequence at a step.
    #[allow(dead_code)] // Tests look.
    pub fn at(&self, sequence: usize, step: usize) -> (u8, u8) {
        let at = step * self.sequences + sequence;
        (self.inputs[at], self.targets[at])
    }

    /// The windows `starts[b]..starts[b] + len` as a batch.
    fn batch(
        &self,
        starts: impl Iterator<Item = usize> + Clone,
        len: usize,
        device: &Device,
    ) -> Result<TokenBatch, TrainError> {
        let steps = self.steps();
        if let Some(start) = starts
            .clone()
            .find(|start| start.saturating_add(len) > steps)
        {
            return Err(DataError::WindowTooLong { start, len, steps }.into());
        }
        let rows = |from: &[u8]| -> Vec<i64> {
            let row = |(sequence, start): (usize, usize)| {
                let column = from.iter().skip(start * self.sequences + sequence);
                column.step_by(self.sequences).take(len)
            };
            starts
                .clone()
                .enumerate()
                .flat_map(row)
                .map(|&symbol| i64::from(symbol))
                .collect()
        };
        let (inputs, targets) = (rows(&self.inputs), rows(&self.targets));
        Ok(TokenBatch::from_host(
            &inputs,
            &targets,
            self.sequences,
            len,
            device,
        )?)
    }
}

/// All digits of a file, and how many a line has.
fn read_digits(path: &Path, symbols: usize) -> Result<(Vec<u8>, usize), SymbolError> {
    let text = fs::read_to_string(path).map_err(|cause| SymbolError::Read {
        path: path.to_owned(),
        cause,
    })?;
    let mut digits = Vec::with_capacity(text.len());
    let mut sequences = 0;
    for (nth, line) in text.lines().enumerate() {
        let before = digits.len();
        for (column, found) in line.trim_end().chars().enumerate() {
            match found
                .to_digit(10)
                .filter(|digit| (*digit as usize) < symbols)
            {
                Some(digit) => digits.push(digit as u8),
                None => {
                    return Err(SymbolError::NotASymbol {
                        path: path.to_owned(),
                        line: nth + 1,
                        column: column + 1,
                        found,
                        largest: symbols.clamp(1, 10) - 1,
                    });
                }
            }
        }
        let got = digits.len() - before;
        if nth == 0 {
            sequences = got;
        }
        if got != sequences {
            return Err(SymbolError::Ragged {
                path: path.to_owned(),
                line: nth + 1,
                expected: sequences,
                got,
            });
        }
    }
    match digits.is_empty() {
        true => Err(SymbolError::Empty {
            path: path.to_owned(),
        }),
        false => Ok((digits, sequences)),
    }
}

impl SequenceSource for SymbolSequences {
    type Batch = TokenBatch;

    fn sequences(&self) -> usize {
        self.sequences
    }

    fn common_steps(&self) -> usize {
        self.steps()
    }

    fn shard(
        &self,
        sequences: Range<usize>,
    ) -> Option<Arc<dyn SequenceSource<Batch = TokenBatch>>> {
        let of_step = |step: &[u8]| step.get(sequences.clone()).map(<[u8]>::to_vec);
        let part = |symbols: &[u8]| {
            let steps = symbols.chunks(self.sequences.max(1)).map(of_step);
            steps
                .collect::<Option<Vec<_>>>()
                .map(|steps| steps.concat())
        };
        Some(Arc::new(Self {
            inputs: part(&self.inputs)?,
            targets: part(&self.targets)?,
            sequences: sequences.len(),
        }))
    }

    fn active(&self, step: usize) -> usize {
        match step < self.steps() {
            true => self.sequences,
            false => 0,
        }
    }

    fn window(&self, start: usize, len: usize, device: &Device) -> Result<TokenBatch, TrainError> {
        self.batch(std::iter::repeat_n(start, self.sequences), len, device)
    }

    fn gather(
        &self,
        starts: &[usize],
        len: usize,
        device: &Device,
    ) -> Result<TokenBatch, TrainError> {
        match starts.len() == self.sequences {
            true => self.batch(starts.iter().copied(), len, device),
            false => Err(DataError::StartCount {
                batch: self.sequences,
                got: starts.len(),
            }
            .into()),
        }
    }
}

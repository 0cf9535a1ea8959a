//! What the fuzz targets check: one function per target that takes any bytes and panics where a law is broken.
//!
//! The targets under `fuzz_targets/` call these with bytes that libFuzzer makes up; the ordinary test `tests/fuzz_seeds.rs`
//! of the library calls them with the seeds and with every input that once broke a law.

pub mod checkpoint;
pub mod corpus;
pub mod estimator;
pub mod norms;
pub mod sweep;
pub mod table;
#[cfg(feature = "tokenizers")]
pub mod tokenizer;
pub mod tokens;
#[cfg(feature = "pytorch")]
pub mod torch;
pub mod weights;

/// A target by its name.
pub type Target = (&'static str, fn(&[u8]));

/// All targets. The names are those of the binaries and of the folders under `seeds/` and `regressions/`.
pub const TARGETS: &[Target] = &[
    ("corpus", corpus::corpus),
    ("tokens", tokens::tokens),
    ("norms", norms::norms),
    ("sweep", sweep::sweep),
    ("table", table::table),
    #[cfg(feature = "tokenizers")]
    ("tokenizer", tokenizer::tokenizer),
    ("weights", weights::weights),
    #[cfg(feature = "pytorch")]
    ("torch", torch::torch),
    ("checkpoint", checkpoint::file),
    ("checkpoint_parts", checkpoint::parts),
    ("estimator", estimator::estimator),
];

/// Messages go into terminals and logs: one line that says something, of bounded length.
fn check_message(error: &impl std::fmt::Display) {
    let text = error.to_string();
    assert!(!text.is_empty(), "an error without words");
    assert!(text.len() < 4096, "a message of {} bytes", text.len());
}

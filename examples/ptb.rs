//! The language model of `wiki2` with the Penn Treebank settings of Aicher et al. (2019).
//!
//! ```text
//! cargo run --release --example ptb -- --data ../shared/data/ptb                 # 128 units, six epochs, minutes
//! cargo run --release --example ptb -- --data ../shared/data/ptb --paper         # 900 units (days on a CPU)
//! cargo run --release --example ptb -- --data ../shared/data/ptb --fixed-k 10    # the usual fixed truncation
//! ```
//!
//! Expected: as `wiki2`: one line per epoch with falling perplexity, K and the reason for it, and a run folder.

#[path = "wiki2/main.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::main()
}

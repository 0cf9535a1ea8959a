//! Reference bodies of the sequence operations, made of backend tensor operations.
//!
//! Symbols: `pre` = input product of all steps, one large matrix product; `rec` = gradient that flows back from
//! step t + 1 into the state handed over after step t; `s_in` = state entering a step, after tap and reset.

mod gru;
mod lstm;
mod rnn;
pub(crate) mod util;

pub use gru::{backward as gru_backward, forward as gru_forward};
pub use lstm::{backward as lstm_backward, forward as lstm_forward};
pub use rnn::{backward as rnn_backward, forward as rnn_forward};

//! The cells: their equations, and the sizes that everything around an equation needs.

/// A recurrent cell.
///
/// Symbols of the equations: `x` input of a step, `h` and `c` hidden and cell state that enter it, `h'` and `c'` those that
/// leave it; `W` input weight, `R` recurrent weight, `b` bias; σ(a) = 1 / (1 + e⁻ᵃ). Products of vectors are elementwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cell {
    /// LSTM (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000):
    /// i, f, o = σ(x W + h R + b), g = tanh(x W + h R + b), c' = f c + i g, h' = o tanh(c').
    Lstm,
    /// GRU (Cho et al. 2014, reset gate after the recurrent product as in PyTorch and cuDNN):
    /// r, z = σ(x W + h R + b), u = h R + b_u, n = tanh(x W + b + r u), h' = (1 − z) n + z h.
    Gru,
    /// Tanh RNN (Elman 1990): h' = tanh(x W + h R + b).
    Rnn,
    /// minGRU (Feng et al. 2024, "Were RNNs all we needed?"): z = σ(x W + b), n = x W + b, h' = (1 − z) h + z n. Gate and
    /// candidate see the input alone, so that there is no recurrent product, and no recurrent weight.
    MinGru,
}

/// What a cell hands from step to step beside its recurrent product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carry {
    /// Nothing: the product is the only way into the next step.
    Nothing,
    /// A part of the hidden state itself.
    Hidden,
    /// A cell state of its own.
    Cell,
}

impl Cell {
    /// Name in messages and summaries.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lstm => "LSTM",
            Self::Gru => "GRU",
            Self::Rnn => "RNN",
            Self::MinGru => "minGRU",
        }
    }

    /// Gates with an input product, side by side in the columns of the input weight: LSTM i, f, g, o; GRU r, z, n; minGRU
    /// z, n.
    pub const fn gates(self) -> usize {
        match self {
            Self::Lstm => 4,
            Self::Gru => 3,
            Self::Rnn => 1,
            Self::MinGru => 2,
        }
    }

    /// Gates with a recurrent product, side by side in the columns of the recurrent weight; zero for a cell without one.
    pub const fn recurrent_gates(self) -> usize {
        match self {
            Self::Lstm => 4,
            Self::Gru => 3,
            Self::Rnn => 1,
            Self::MinGru => 0,
        }
    }

    /// Parts of the packed state, each of as many features as there are hidden units: LSTM hidden, cell; else hidden.
    pub const fn state_parts(self) -> usize {
        match self {
            Self::Lstm => 2,
            Self::Gru | Self::Rnn | Self::MinGru => 1,
        }
    }

    /// Values per hidden unit and step that the backward pass needs beside the states: LSTM i, f, g, o; GRU r, z, n, u;
    /// minGRU z, n; none for the tanh RNN.
    pub const fn saved_gates(self) -> usize {
        match self {
            Self::Lstm | Self::Gru => 4,
            Self::Rnn => 0,
            Self::MinGru => 2,
        }
    }

    /// Whether the last gate's recurrent product has a bias of its own, because the cell multiplies the two before it adds
    /// them to the input product: the GRU's new gate.
    pub const fn has_recurrent_bias(self) -> bool {
        matches!(self, Self::Gru)
    }

    pub(crate) const fn carry(self) -> Carry {
        match self {
            Self::Lstm => Carry::Cell,
            Self::Gru | Self::MinGru => Carry::Hidden,
            Self::Rnn => Carry::Nothing,
        }
    }
}

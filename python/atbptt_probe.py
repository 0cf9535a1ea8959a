"""How many steps of backpropagation does this PyTorch model need?

Measures, for any model and training loop, what the example `estimate` of the Rust project `atbptt` turns into a truncation
length K, and writes it as JSON. One file, needs PyTorch 2.1 or newer and nothing else: copy it beside your code.

    probe = Probe(model, forward, loss)
    results = measure(probe, random_windows(inputs, targets, seed=0), window=100, losses=20, probes=5)
    save("probe.json", results)
    # cargo run --release --example estimate -- probe.json --delta 0.5

Two functions describe the model:

    forward(model, inputs, state) -> (outputs, state)    inputs [time, batch, ...], outputs [time, batch, features];
                                                         state: a tensor, or tuples, lists or dicts of them; None at first
    loss(model, outputs, targets) -> scalar              the SUM of the losses of these steps and sequences

What is measured (symbols as in the documentation of `atbptt-core`):

`lag_norms`: the norm of the gradient of one step's loss at the state k steps back, k = 0..W, for every sequence. Lag 0 is
the gradient at `outputs`. After C. Aicher, N. J. Foti, E. B. Fox, *Adaptively Truncating Backpropagation Through Time to
Control Gradient Bias*, UAI 2019 (arXiv:1905.07473).

`direct_statistics`: the bias of the truncated *parameter* gradient itself. A probe runs a window of W + m - 1 steps, whose
last m steps carry a loss, in pieces that end at the cuts c = 0, 1, 2, 4, ... steps before the first loss, each piece on its
own copy of the weights. One backward pass then gives each piece's weight gradient apart. The file holds the inner products
of all of them; products *between* independent probes are unbiased for squared expectations, for every batch size.

`python atbptt_probe.py FILE` runs the example at the end of this file.
"""

import json
import sys

import torch
from torch import nn
from torch.func import functional_call

# Weights with more elements than this are not counted unless asked for: embeddings of large vocabularies.
MAX_COUNTED = 1 << 22
# Elements of a gradient that are kept; above, a fixed random subset. The scale cancels in every ratio.
MAX_ELEMENTS = 1 << 22


class Probe:
    """A model with the two functions that describe its loop.

    counted(name, parameter) -> bool says which parameters the bias is about; by default all that `forward` uses, require a
    gradient and have at most MAX_COUNTED elements. What only `loss` uses, such as a decoder, never counts: truncation does
    not touch its gradient. `batch_dim` is the dimension of the state's tensors that counts sequences: -2 fits both
    [batch, hidden] and PyTorch's [layers, batch, hidden].
    """

    def __init__(self, model, forward, loss, counted=None, batch_dim=-2):
        self.model, self.forward, self.loss, self.batch_dim = model, forward, loss, batch_dim
        if counted is None:
            counted = lambda name, parameter: parameter.numel() <= MAX_COUNTED
        self.counted = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and counted(name, parameter)
        }

    def warm_up(self, inputs):
        """The state after these steps, without gradient."""
        if len(inputs) == 0:
            return None
        with torch.no_grad():
            return self.forward(self.model, inputs, None)[1]


def lag_norms(probe, windows, burn_in=0):
    """Gradient norms of the last step's loss at every earlier state.

    windows: pairs (inputs, targets) of burn_in + W steps, all of one length; targets may hold the last step alone. Their
    sequences count as one batch. Returns a dict:

    gradient_norms   [lag][sequence], lags 0..W
    mean_sum_norms   norm of the mean over sequences of the sum of the first j lags, j = 0..W+1
    sum_squares      mean over sequences of that sum's squared norm
    """
    rows, sums, squares, count = None, None, None, 0
    for inputs, targets in windows:
        gradients = _state_gradients(probe, inputs, targets, burn_in)
        batch = len(gradients[0][0])
        if rows is None:
            rows = [[] for _ in gradients]
            sums, squares = [0.0] * len(gradients), [0.0] * len(gradients)
        if len(rows) != len(gradients):
            raise ValueError(f"every window needs {len(rows) - 1} steps after the burn-in, got one of {len(gradients) - 1}")
        count += batch
        # Lag 0 has coordinates of its own; the states of the other lags add up.
        kept = None
        first = gradients[0][0]
        for lag, parts in enumerate(gradients):
            rows[lag] += _norms(parts).tolist()
            if lag == 0:
                now = [first]
            else:
                kept = parts if kept is None else [a + b for a, b in zip(kept, parts)]
                now = [first] + kept
            sums[lag] = [a + b for a, b in zip(sums[lag], (p.sum(0) for p in now))] if sums[lag] else [p.sum(0) for p in now]
            squares[lag] += _norms(now).square().sum().item()
    if rows is None:
        raise ValueError("no windows: give at least one pair (inputs, targets)")
    norm = lambda parts: torch.cat([p / count for p in parts]).norm().item()
    return {
        "gradient_norms": rows,
        "mean_sum_norms": [0.0] + [norm(parts) for parts in sums],
        "sum_squares": [0.0] + [square / count for square in squares],
    }


def direct_statistics(probe, windows, losses, burn_in=0, contexts=None, max_elements=MAX_ELEMENTS, seed=0):
    """Inner products of the weight gradients of a window's pieces.

    windows: n >= 2 pairs (inputs, targets) of burn_in + W + m - 1 steps, independent draws; losses: m, the steps at the end
    of each that carry a loss: as many as one update of yours has, if you can; contexts: the cuts c, ascending from 0 to at
    most W - 1. Returns the dict that the file holds under `direct`.
    """
    if losses < 1:
        raise ValueError(f"losses must be at least 1, got {losses}")
    vectors, window, pick = [], None, None
    for inputs, targets in windows:
        steps = len(inputs) - burn_in
        if window is None:
            window = steps - losses + 1
            if window < losses + 2:
                raise ValueError(f"the window must reach back {losses + 2} steps at least, got {window}; give longer windows or fewer losses")
            contexts = default_contexts(window) if contexts is None else list(contexts)
            if contexts[:1] != [0] or any(a >= b for a, b in zip(contexts, contexts[1:])) or contexts[-1] >= window:
                raise ValueError(f"contexts must ascend from 0 and stay below the window {window}, got {contexts}")
        if steps != window + losses - 1:
            raise ValueError(f"every window needs {window + losses - 1} steps after the burn-in, got {steps}")
        for piece in _piece_gradients(probe, inputs, targets, losses, burn_in, contexts, window):
            if pick is None:
                pick = _subset(piece.numel(), max_elements, seed, piece.device)
            vectors.append(piece if pick is ... else piece[pick])
    pieces = len(contexts) + (contexts[-1] + 1 < window) if contexts else 0
    probes = len(vectors) // pieces if pieces else 0
    if probes < 2:
        raise ValueError(f"the bias takes products between at least 2 probes, got {probes}")
    side = len(vectors)
    gram = torch.zeros(side, side, dtype=torch.float64)
    for start in range(0, len(vectors[0]), 1 << 18):
        block = torch.stack([v[start : start + (1 << 18)] for v in vectors]).double()
        gram += (block @ block.T).cpu()
    return {
        "window": window,
        "losses": losses,
        "contexts": contexts,
        "probes": probes,
        "gram": ((gram + gram.T) / 2).flatten().tolist(),
    }


def measure(probe, draw, window, losses, probes=5, burn_in=None, contexts=None):
    """Lag norms and direct statistics of `probes` random windows each.

    draw(steps) -> (inputs, targets): a random window, such as `random_windows` gives. window: W, the longest context in
    question, several times the K that you expect; burn_in: steps that warm the state up, by default W / 10. The model stays
    in the mode it is in: leave dropout on, as in training.
    """
    burn_in = window // 10 if burn_in is None else burn_in
    norms = (draw(burn_in + window) for _ in range(probes))
    results = lag_norms(probe, norms, burn_in)
    direct = (draw(burn_in + window + losses - 1) for _ in range(probes))
    results["direct"] = direct_statistics(probe, direct, losses, burn_in, contexts)
    return results


def random_windows(inputs, targets, seed=0):
    """draw(steps) for data [time, batch, ...]: one random start per sequence."""
    generator = torch.Generator().manual_seed(seed)

    def draw(steps):
        time, batch = inputs.shape[:2]
        if steps > time:
            raise ValueError(f"a probe needs {steps} steps, the data has {time}; shorten the window")
        starts = torch.randint(time - steps + 1, (batch,), generator=generator)
        index = (starts[None] + torch.arange(steps)[:, None]).to(inputs.device)
        sequence = torch.arange(batch, device=inputs.device)
        return inputs[index, sequence], targets[index, sequence]

    return draw


def default_contexts(window):
    """0, 1, 2, 4, 7, 11, 16, then some twice as far apart each, the last at W - 1."""
    contexts = [c for c in (0, 1, 2, 4, 7, 11, 16) if c < window - 1]
    while len(contexts) >= 7 and contexts[-1] * 1.5 < window - 1:
        contexts.append(int(contexts[-1] * 1.5))
    return contexts + [window - 1]


def save(path, results):
    """Writes results as JSON; refuses numbers that are not finite, before the file is touched."""
    text = json.dumps(results, allow_nan=False)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + "\n")


def _map(function, state):
    """The state with every tensor of it replaced."""
    if isinstance(state, torch.Tensor):
        return function(state)
    if isinstance(state, dict):
        return {key: _map(function, value) for key, value in state.items()}
    if isinstance(state, (tuple, list)):
        values = [_map(function, value) for value in state]
        return type(state)(*values) if hasattr(state, "_fields") else type(state)(values)
    raise TypeError(f"a state is made of tensors, tuples, lists and dicts, got {type(state).__name__}")


def _norms(parts):
    """Norm over all parts, each [batch, features]: [batch]."""
    return torch.cat(parts, 1).norm(dim=1)


def _state_gradients(probe, inputs, targets, burn_in):
    """Per lag 0..W, the parts of the gradient, each [batch, features]. Zeros added to a state catch its gradient."""
    state = probe.warm_up(inputs[:burn_in])
    inputs = inputs[burn_in:]
    if state is None:
        with torch.no_grad():
            state = _map(torch.zeros_like, probe.forward(probe.model, inputs[:1], None)[1])
    taps = []

    def tap(state):
        caught = []

        def add(tensor):
            zeros = torch.zeros_like(tensor).requires_grad_()
            caught.append(zeros)
            return tensor + zeros

        state = _map(add, state)
        taps.append(caught)
        return state

    state = tap(_map(torch.Tensor.detach, state))
    for step in range(len(inputs)):
        outputs, state = probe.forward(probe.model, inputs[step : step + 1], state)
        if step + 1 < len(inputs):
            state = tap(state)
    feature = torch.zeros_like(outputs).requires_grad_()
    total = probe.loss(probe.model, outputs + feature, targets[-1:])
    wanted = [feature] + [zeros for caught in taps for zeros in caught]
    found = torch.autograd.grad(total, wanted, allow_unused=True)
    found = [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found)]
    batch = outputs.shape[1]
    flat = lambda gradient: gradient.movedim(probe.batch_dim, 0).reshape(batch, -1)
    parts = len(taps[0])
    states = [[flat(g) for g in found[1 + i : 1 + i + parts]] for i in range(0, parts * len(taps), parts)]
    return [[found[0][0].reshape(batch, -1)]] + states[::-1]


class _Call(nn.Module):
    """The user's function as a module, so that the model's parameters can be replaced for one call."""

    def __init__(self, model, function):
        super().__init__()
        self.model, self.function = model, function

    def forward(self, inputs, state):
        return self.function(self.model, inputs, state)


def _piece_gradients(probe, inputs, targets, losses, burn_in, contexts, window):
    """The weight gradients of the pieces, newest first, each flat."""
    state = probe.warm_up(inputs[:burn_in])
    inputs, targets = inputs[burn_in:], targets[-losses:]
    # Where pieces begin, in time order: at the window's start, at every cut, at the first loss.
    starts = sorted({0} | {window - 1 - c for c in contexts if c < window})
    ends = starts[1:] + [len(inputs)]
    call, copies, outputs = _Call(probe.model, probe.forward), [], []
    for start, end in zip(starts, ends):
        weights = {"model." + name: p.detach().clone().requires_grad_() for name, p in probe.counted.items()}
        copies.append(list(weights.values()))
        piece, state = functional_call(call, weights, (inputs[start:end], state))
        outputs.append(piece)
    outputs = torch.cat(outputs)[-losses:]
    mean = probe.loss(probe.model, outputs, targets) / (losses * outputs.shape[1])
    found = torch.autograd.grad(mean, [w for copy in copies for w in copy], allow_unused=True)
    if all(gradient is None for gradient in found):
        raise ValueError("the loss reaches none of the counted parameters through `forward`; check `counted` and detached states")
    found = iter(found)
    flat = lambda weight, gradient: (torch.zeros_like(weight) if gradient is None else gradient).flatten()
    vectors = [torch.cat([flat(w, next(found)) for w in copy]).detach() for copy in copies]
    return vectors[::-1]


def _subset(size, keep, seed, device):
    """Indices of the elements to keep, the same for every probe; all of them where they are few."""
    if size <= keep:
        return ...
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(size, generator=generator)[:keep].sort().values.to(device)


# --- Example -----------------------------------------------------------------------------------------------------------


class Echo(nn.Module):
    """Two LSTM layers and a linear decoder."""

    def __init__(self, inputs=3, hidden=4, outputs=2):
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, num_layers=2)
        self.decoder = nn.Linear(hidden, outputs)


def example(path, updates=200):
    """Learns to add up inputs of the last few steps, measures, and writes norms, direct statistics, weights and windows."""
    torch.manual_seed(1)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    inputs = torch.randn(400, 2, 3)
    # A target depends on inputs up to three steps back.
    past = lambda steps: torch.cat([torch.zeros(steps, 2, 3), inputs[: len(inputs) - steps]])
    targets = (past(1) + past(3))[..., :2]

    model = Echo()
    forward = lambda model, inputs, state: model.lstm(inputs, state)
    loss = lambda model, outputs, targets: (model.decoder(outputs) - targets).square().sum() / 2
    # PyTorch's second bias of an LSTM always has the gradient of the first: one of them counts.
    probe = Probe(model, forward, loss, counted=lambda name, parameter: "bias_hh" not in name)

    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    draw = random_windows(inputs, targets, seed=2)
    for _ in range(updates):
        x, y = draw(20)
        outputs, _ = forward(model, x, None)
        optimizer.zero_grad()
        (loss(model, outputs, y) / y.numel()).backward()
        optimizer.step()

    drawn = []

    def draw_and_keep(steps):
        drawn.append(draw(steps))
        return drawn[-1]

    results = measure(probe, draw_and_keep, window=12, losses=3, probes=3, burn_in=2)
    # Only for those who compare numbers: `estimate` passes these names over.
    results["burn_in"] = 2
    results["weights"] = {name: weight.tolist() for name, weight in model.state_dict().items()}
    results["windows"] = [{"inputs": x.tolist(), "targets": y.tolist()} for x, y in drawn]
    save(path, results)
    print(f"wrote {path}; now: cargo run --release --example estimate -- {path} --delta 0.5")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__.strip() + "\n\nusage: python atbptt_probe.py FILE")
    example(sys.argv[1])

#!/usr/bin/env python3
"""PyTorch's side of the speed comparison: one JSON line per case, by the names and sizes of benches/compare/cases.rs.

usage: torch_peer.py [--only layer|train|step] [--case NAME] [--repeat N] [--device cpu|cuda] [--threads N]
                     [--keep-subnormals] [--compile] [--rehearse]

  layer  nn.LSTM or nn.GRU, forward and backward over a window: gradients of the weights, the input and the initial state
  train  one update of a one-layer LSTM language model with tied softmax: embedding, dropout 0.2, cross entropy, global norm
         clipped to 1, SGD with weight decay 1e-7, on random tokens. The window is 2K-1 steps with the loss over its
         last K, or, for the strided cases, K-1+m steps with the loss over the last m; the state after the first K
         (or m) steps is carried on. Only steps that count a loss are decoded.
  step   one step of nn.LSTM at batch 1 with a carried state, without gradients: milliseconds per call

Every case runs in a process of its own, so that its peak memory is its own. Seconds are the median of the repeats after one
that warms up; layers warm up for half a second, and are repeated for as long at least; tokens per second count losses for
`train`. All in float32. Subnormal numbers are flushed to zero, as on our side;
--keep-subnormals is PyTorch's default. On a CPU, nn.LSTM runs oneDNN's fused kernel in its forward pass where oneDNN
serves it, and products run in oneDNN or MKL. --compile passes the model to torch.compile. Needs torch.
"""
import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

LAYERS = [("lstm", 16, 512, 100), ("lstm", 32, 900, 100), ("lstm", 64, 50, 100), ("gru", 16, 512, 100)]
# Name, batch, hidden, vocabulary, K, and the losses of strided windows.
TRAIN = [
    ("wiki2", 16, 512, 33278, 100, None),
    ("ptb", 32, 900, 10000, 100, None),
    ("wiki2-k300", 16, 512, 33278, 300, None),
    ("wiki2-strided", 16, 512, 33278, 100, 20),
    ("ptb-strided", 32, 900, 10000, 100, 20),
]
STEP = [32, 64, 128, 256, 512, 1024]
STEPS_PER_REPEAT = 200
# A layer is run for so many seconds before it is timed, and timed for so long at least.
LEAST_TIME = 0.5


def names(rehearse):
    """Every case: kind, name, arguments."""
    for cell, batch, hidden, steps in LAYERS:
        if rehearse:
            batch, hidden, steps = 4, 16, 8
        yield "layer", f"layer/{cell}/b{batch}/h{hidden}/t{steps}", (cell, batch, hidden, steps)
    for name, batch, hidden, vocabulary, k, losses in TRAIN:
        if rehearse:
            batch, hidden, vocabulary, k = 4, 16, 100, 8
        yield "train", f"train/{name}/b{batch}/h{hidden}/v{vocabulary}/k{k}", (batch, hidden, vocabulary, k, losses)
    for hidden in STEP:
        yield "step", f"step/lstm/b1/h{hidden}", (hidden,)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=["layer", "train", "step"])
    parser.add_argument("--case")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--keep-subnormals", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    seen = set()
    for kind, name, sizes in names(args.rehearse):
        # Cases of one size in a rehearsal have one name.
        if args.only not in (None, kind) or args.case not in (None, name) or name in seen:
            continue
        seen.add(name)
        if args.case is None:
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--case", name], check=True)
        else:
            print(json.dumps(measure(args, kind, name, sizes)), flush=True)


def measure(args, kind, name, sizes):
    import torch

    if not args.keep_subnormals:
        torch.set_flush_denormal(True)
    if args.threads:
        torch.set_num_threads(args.threads)
    run, tokens, calls = {"layer": layer, "train": train, "step": step}[kind](torch, args, *sizes)

    def wait():
        if args.device == "cuda":
            torch.cuda.synchronize()

    def rounds(least):
        times = []
        begun = time.perf_counter()
        while len(times) < least or kind == "layer" and time.perf_counter() - begun < LEAST_TIME:
            wait()
            started = time.perf_counter()
            run()
            wait()
            times.append((time.perf_counter() - started) / calls)
        return times

    rounds(1)
    seconds = statistics.median(rounds(args.repeat))
    return {
        "case": name,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peer": f"torch {torch.__version__}" + (", compiled" if args.compile else ""),
        "device": args.device,
        "threads": torch.get_num_threads(),
        "rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def layer(torch, args, cell, batch, hidden, steps):
    module = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell](hidden, hidden).to(args.device)
    call = torch.compile(module) if args.compile else module
    inputs = torch.randn(steps, batch, hidden, device=args.device, requires_grad=True)
    parts = [torch.zeros(1, batch, hidden, device=args.device, requires_grad=True) for _ in range(2)]
    state = tuple(parts) if cell == "lstm" else parts[0]
    ones = torch.ones(steps, batch, hidden, device=args.device)

    def run():
        module.zero_grad()
        inputs.grad = None
        for part in parts:
            part.grad = None
        outputs, _ = call(inputs, state)
        outputs.backward(ones)

    return run, batch * steps, 1


def train(torch, args, batch, hidden, vocabulary, k, losses):
    nn = torch.nn
    carried = k if losses is None else losses
    context = k - 1

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(vocabulary, hidden)
            self.lstm = nn.LSTM(hidden, hidden)
            self.softmax = nn.Linear(hidden, vocabulary)
            self.softmax.weight = self.embedding.weight
            self.dropout = nn.Dropout(0.2)

        def forward(self, inputs, targets, state):
            features = self.dropout(self.embedding(inputs))
            first, middle = self.lstm(features[:carried], state)
            second, _ = self.lstm(features[carried:], middle)
            outputs = self.dropout(torch.cat((first, second))[context:])
            logits = self.softmax(outputs).flatten(0, 1)
            return nn.functional.cross_entropy(logits, targets.flatten()), middle

    model = Model().to(args.device)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.zero_()
            else:
                bound = (3 / max(parameter.shape)) ** 0.5
                parameter.uniform_(-bound, bound)
    call = torch.compile(model) if args.compile else model
    sgd = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=1e-7)
    tokens = torch.randint(0, vocabulary, (context + carried + 1, batch), device=args.device)
    state = [tuple(torch.zeros(1, batch, hidden, device=args.device) for _ in range(2))]

    def run():
        loss, middle = call(tokens[:-1], tokens[context + 1 :], state[0])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        sgd.step()
        sgd.zero_grad()
        state[0] = tuple(part.detach() for part in middle)

    return run, batch * carried, 1


def step(torch, args, hidden):
    module = torch.nn.LSTM(hidden, hidden).to(args.device).eval()
    inputs = torch.randn(1, 1, hidden, device=args.device)
    state = tuple(torch.zeros(1, 1, hidden, device=args.device) for _ in range(2))

    def run():
        carried = state
        with torch.inference_mode():
            for _ in range(STEPS_PER_REPEAT):
                _, carried = module(inputs, carried)

    return run, 1, STEPS_PER_REPEAT


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""onnxruntime's side of the latency table: one JSON line per size, as benches/torch_peer.py prints them.

usage: onnx_peer.py --case step/lstm/b1/hHIDDEN [--repeat N]

One step of ONNX's LSTM operator at batch 1 with a carried state, in float32, with all cores: seconds per call, median of the repeats
after one that warms up. State and output stay in the memory they were given (I/O binding), which is the fastest way
that onnxruntime offers. Needs onnx, onnxruntime and numpy.
"""
import argparse
import json
import resource
import statistics
import time

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper

STEPS_PER_REPEAT = 200


def session(hidden):
    """A session of one LSTM operator with random weights, as many inputs as hidden units."""
    random = numpy.random.default_rng(1)

    def weight(name, *shape):
        values = random.uniform(-1, 1, shape).astype(numpy.float32) / hidden**0.5
        return onnx.numpy_helper.from_array(values, name)

    def info(name, *shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))

    node = helper.make_node(
        "LSTM", ["x", "w", "r", "b", "", "h", "c"], ["y", "next_h", "next_c"], hidden_size=hidden
    )
    graph = helper.make_graph(
        [node],
        "step",
        [info("x", 1, 1, hidden), info("h", 1, 1, hidden), info("c", 1, 1, hidden)],
        [info("y", 1, 1, 1, hidden), info("next_h", 1, 1, hidden), info("next_c", 1, 1, hidden)],
        [weight("w", 1, 4 * hidden, hidden), weight("r", 1, 4 * hidden, hidden), weight("b", 1, 8 * hidden)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def bindings(run, hidden):
    """Two bindings that hand the state to and fro."""

    def value(*shape):
        return onnxruntime.OrtValue.ortvalue_from_numpy(numpy.zeros(shape, numpy.float32))

    x = onnxruntime.OrtValue.ortvalue_from_numpy(
        numpy.random.default_rng(2).standard_normal((1, 1, hidden)).astype(numpy.float32)
    )
    states = [[value(1, 1, hidden) for _ in "hc"] for _ in range(2)]
    y = value(1, 1, 1, hidden)
    pair = []
    for entering, leaving in (states, states[::-1]):
        binding = run.io_binding()
        binding.bind_ortvalue_input("x", x)
        for name, state in zip("hc", entering):
            binding.bind_ortvalue_input(name, state)
        binding.bind_ortvalue_output("y", y)
        for name, state in zip("hc", leaving):
            binding.bind_ortvalue_output("next_" + name, state)
        pair.append(binding)
    return pair


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", required=True)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    hidden = int(args.case.rsplit("/h", 1)[1])
    run = session(hidden)
    pair = bindings(run, hidden)
    times = []
    for _ in range(args.repeat + 1):
        started = time.perf_counter()
        for step in range(STEPS_PER_REPEAT):
            run.run_with_iobinding(pair[step % 2])
        times.append((time.perf_counter() - started) / STEPS_PER_REPEAT)
    seconds = statistics.median(times[1:])
    line = {
        "case": args.case,
        "seconds": seconds,
        "tokens_per_second": 1 / seconds,
        "rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "peer": f"onnxruntime {onnxruntime.__version__}",
        "device": "cpu",
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()

"""Writes files in the format of `torch.save` without PyTorch: zip archive, pickle, one storage per tensor.

    python3 make_pt.py ../../../../shared/golden/recurrent_layers.json .

makes `lstm.pt` and `rnn.pt` (float32) and `gru.pt` (float64, two layers where the golden file has them) with the weights of the
golden cases of those kinds. The names inside the pickle are PyTorch's own; its classes are stood in for while pickling.
"""

import collections
import io
import json
import pickle
import struct
import sys
import types
import zipfile


def module(name, **members):
    made = types.ModuleType(name)
    for member, value in members.items():
        value.__module__ = name
        value.__qualname__ = value.__name__ = member
        setattr(made, member, value)
    sys.modules[name] = made


class FloatStorage:
    code, size = "f", 4


class DoubleStorage:
    code, size = "d", 8


def _rebuild_tensor_v2():
    pass


module("torch", FloatStorage=FloatStorage, DoubleStorage=DoubleStorage)
module("torch._utils", _rebuild_tensor_v2=_rebuild_tensor_v2)


class Stored:
    def __init__(self, key, kind, count):
        self.key, self.kind, self.count = key, kind, count


class Tensor:
    def __init__(self, storage, shape):
        self.storage, self.shape = storage, shape

    def __reduce__(self):
        strides, step = [], 1
        for size in reversed(self.shape):
            strides.insert(0, step)
            step *= size
        arguments = (self.storage, 0, tuple(self.shape), tuple(strides), False, collections.OrderedDict())
        return _rebuild_tensor_v2, arguments


class Pickler(pickle._Pickler):
    def persistent_id(self, thing):
        if isinstance(thing, Stored):
            return ("storage", thing.kind, thing.key, "cpu", thing.count)
        return None


def flat(values, shape):
    if isinstance(values, list):
        return [number for row in values for number in flat(row, None)]
    return [values]


def shape_of(values):
    return [len(values)] + shape_of(values[0]) if isinstance(values, list) else []


def save(path, state, kind):
    stored, tensors = {}, collections.OrderedDict()
    for key, (name, values) in enumerate(state.items()):
        numbers = flat(values, None)
        stored[str(key)] = struct.pack(f"<{len(numbers)}{kind.code}", *numbers)
        tensors[name] = Tensor(Stored(str(key), kind, len(numbers)), shape_of(values))
    pickled = io.BytesIO()
    Pickler(pickled, protocol=2).dump(tensors)
    stem = path.rsplit("/", 1)[-1].removesuffix(".pt")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        def add(name, content):
            archive.writestr(zipfile.ZipInfo(f"{stem}/{name}", (1980, 1, 1, 0, 0, 0)), content)

        add("data.pkl", pickled.getvalue())
        add("byteorder", "little")
        for key, content in stored.items():
            add(f"data/{key}", content)
        add("version", "3\n")


golden, out = sys.argv[1], sys.argv[2]
cases = json.load(open(golden))["cases"]
for name, kind in (("lstm", FloatStorage), ("gru", DoubleStorage), ("rnn", FloatStorage)):
    case = max((case for case in cases if case["kind"].lower().startswith(name)), key=lambda case: case["layers"])
    save(f"{out}/{name}.pt", case["params"], kind)

"""PyTorch's side of the test of weight files: writes models with their outputs, and compares what comes back.

    python3 torch_cases.py write FOLDER      # NAME.pt, NAME.safetensors and cases.json
    python3 torch_cases.py compare FOLDER    # reads NAME.back.safetensors

Ends with status 77 where there is no torch. The safetensors format is eight bytes of length, a JSON header and the numbers.
"""

import json
import pathlib
import struct
import sys

try:
    import torch
except ImportError as error:
    print(error)
    sys.exit(77)

INPUT, HIDDEN, VOCABULARY = 3, 4, 11
KINDS = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU, "RNN_TANH": torch.nn.RNN}


class WordModel(torch.nn.Module):
    """The parameters of PyTorch's word language model, by its names."""

    def __init__(self, kind, features, hidden, layers, tied):
        super().__init__()
        self.encoder = torch.nn.Embedding(VOCABULARY, features)
        self.rnn = KINDS[kind](features, hidden, layers, batch_first=True)
        self.decoder = torch.nn.Linear(hidden, VOCABULARY)
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, ids):
        output, _ = self.rnn(self.encoder(ids))
        return self.decoder(output), None


def write_safetensors(path, tensors):
    header, numbers = {}, b""
    for name, tensor in tensors.items():
        content = struct.pack(f"<{tensor.numel()}f", *tensor.flatten().tolist())
        offsets = [len(numbers), len(numbers) + len(content)]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
        numbers += content
    header = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + numbers)


def read_safetensors(path):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    numbers = content[8 + length :]
    tensors = {}
    for name, about in header.items():
        if name != "__metadata__":
            start, end = about["data_offsets"]
            flat = torch.frombuffer(bytearray(numbers[start:end]), dtype=torch.float32)
            tensors[name] = flat.reshape(about["shape"])
    return tensors


def models():
    """Cases and the models that they describe."""
    for kind, network in KINDS.items():
        for layers in (1, 2):
            case = {"kind": kind, "input": INPUT, "hidden": HIDDEN, "layers": layers, "bias": True}
            case["name"] = f"{kind}-{layers}"
            yield case, network(INPUT, HIDDEN, layers, batch_first=True)
        for tied in (False, True) if kind == "LSTM" else (kind == "GRU",):
            features = HIDDEN if tied else INPUT
            case = {"kind": kind, "input": features, "hidden": HIDDEN, "layers": 2, "vocabulary": VOCABULARY, "tied": tied}
            case["name"] = f"words-{kind}-{'tied' if tied else 'untied'}"
            yield case, WordModel(kind, features, HIDDEN, 2, tied)
    case = {"name": "GRU-no-bias", "kind": "GRU", "input": INPUT, "hidden": HIDDEN, "layers": 1, "bias": False}
    yield case, torch.nn.GRU(INPUT, HIDDEN, 1, bias=False, batch_first=True)


def save(folder, name, model):
    torch.save(model.state_dict(), folder / f"{name}.pt")
    write_safetensors(folder / f"{name}.safetensors", model.state_dict())


def write(folder):
    torch.manual_seed(5)
    cases = []
    for case, model in models():
        save(folder, case["name"], model)
        if "vocabulary" in case:
            x = torch.randint(VOCABULARY, (2, 7))
        else:
            x = torch.randn(2, 7, INPUT)
        with torch.no_grad():
            y, _ = model(x)
        cases.append(case | {"x": x.tolist(), "y": y.tolist()})
    save(folder, "bidirectional", torch.nn.LSTM(INPUT, HIDDEN, bidirectional=True))
    save(folder, "projection", torch.nn.LSTM(INPUT, HIDDEN, proj_size=2))
    inner = torch.nn.LSTM(INPUT, HIDDEN).state_dict()
    torch.save({"epoch": 3, "note": "a checkpoint", "model": inner}, folder / "nested.pt")
    (folder / "cases.json").write_text(json.dumps(cases))


def compare(folder):
    for case, (_, model) in zip(json.loads((folder / "cases.json").read_text()), models()):
        model.load_state_dict(read_safetensors(folder / f"{case['name']}.back.safetensors"))
        with torch.no_grad():
            y, _ = model(torch.tensor(case["x"]))
        worst = (y - torch.tensor(case["y"])).abs().max().item()
        if not worst <= 1e-5:
            sys.exit(f"{case['name']}: what came back is off by {worst}")


action, folder = sys.argv[1], pathlib.Path(sys.argv[2])
{"write": write, "compare": compare}[action](folder)

"""Runs PyTorch on weights and inputs written by the example `torch_weights`, compares the outputs, and saves the weights again.

    python3 check_weights.py FOLDER

reads `weights.safetensors` and `example.json`, writes `back.pt`. Needs PyTorch alone: the safetensors format is eight bytes of
length, a JSON header and the numbers.
"""

import json
import pathlib
import struct
import sys

try:
    import torch
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(0)


def read_safetensors(path):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    numbers = content[8 + length :]
    tensors = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        assert about["dtype"] == "F32", about
        start, end = about["data_offsets"]
        flat = torch.frombuffer(bytearray(numbers[start:end]), dtype=torch.float32)
        tensors[name] = flat.reshape(about["shape"])
    return tensors


folder = pathlib.Path(sys.argv[1])
example = json.loads((folder / "example.json").read_text())
network = getattr(torch.nn, example["kind"])
network = network(example["features"], example["hidden"], example["layers"], batch_first=True)
network.load_state_dict(read_safetensors(folder / "weights.safetensors"))
shape = (example["batch"], example["time"], example["features"])
with torch.no_grad():
    output, _ = network(torch.tensor(example["input"]).reshape(shape))
worst = (output.flatten() - torch.tensor(example["output"])).abs().max().item()
if not worst <= 1e-5:
    sys.exit(f"PyTorch's outputs are off by {worst}")
print("PyTorch: equal to 1e-5")
torch.save(network.state_dict(), folder / "back.pt")

#!/usr/bin/env bash
# Our speed and memory beside PyTorch's on this machine, one line per case. `TORCH_PYTHON` names a Python with PyTorch:
#   python3 -m venv ~/torch && ~/torch/bin/pip install torch && TORCH_PYTHON=~/torch/bin/python benches/compare.sh
# Options go through: --only layer|train, --repeat N, --rounds N, --peer FILE, --peer-device cpu|cuda, --case PART-OF-A-NAME.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec cargo bench --quiet --bench compare -- versus "$@"

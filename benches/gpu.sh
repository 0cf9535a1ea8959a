#!/usr/bin/env bash
# Speed and memory on an NVIDIA GPU beside PyTorch's, in two halves, for machines that have a GPU but no network:
#
#   benches/gpu.sh build DIR        # anywhere with Cargo: one benchmark program, of all backends, into DIR
#   benches/gpu.sh run DIR [OUT]    # on the GPU: eight minutes at most; tables and JSON lines into OUT (gpu-results)
#
# `run` needs PyTorch with CUDA (TORCH_PYTHON) for the peer's side, the NVIDIA driver, and for Vulkan its loader (libvulkan1).
#   GPU_BACKENDS  backends, default "vulkan cuda"        PEER         the peer's program, default benches/torch_peer.py
#   GPU_SECONDS   time for everything, default 480       PEER_DEVICE  default cuda
#   GPU_FEATURES  added to the build, default none; `autotune` spends minutes per program on its first start
#   GPU_REHEARSE  set: tiny sizes, to try the script where there is no GPU (GPU_BACKENDS=wgpu PEER_DEVICE=cpu)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

backends="${GPU_BACKENDS:-vulkan cuda}"
python="${TORCH_PYTHON:-python3}"
peer="${PEER:-benches/torch_peer.py}"
peer_device="${PEER_DEVICE:-cuda}"
limit="${GPU_SECONDS:-480}"
rehearse=()
repeat=5
if [[ -n "${GPU_REHEARSE:-}" ]]; then
    rehearse=(--rehearse)
    repeat=1
fi

usage() {
    sed -n '2,11p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//' >&2
    exit 2
}

build() {
    local dir="$1" program features="${backends// /,}${GPU_FEATURES:+,$GPU_FEATURES}"
    mkdir -p "$dir"
    program="$(cargo bench --no-run --bench compare --features "$features" \
        --message-format=json | sed -n 's/.*"executable":"\([^"]*compare-[^"]*\)".*/\1/p' | tail -1)"
    cp "$program" "$dir/compare"
    printf 'built %s\n' "$dir/compare"
}

# left: seconds that remain of the limit.
left() { echo $((limit - SECONDS)); }

# step SECONDS NAME COMMAND…: at most SECONDS, its output into OUT/NAME.txt; a failure or a timeout is said and not fatal.
step() {
    local most="$1" name="$2" status=0 begin=$SECONDS
    shift 2
    if (($(left) < most)); then most="$(left)"; fi
    if ((most <= 0)); then
        printf '%s: no time left\n' "$name" | tee -a "$out/missing.txt"
        return 0
    fi
    watch_memory "$name"
    timeout "$most" "$@" >"$out/$name.txt" 2>"$out/$name.err" || status=$?
    stop_watching
    if ((status != 0)); then
        printf '%s: status %d after %d s: %s\n' "$name" "$status" $((SECONDS - begin)) \
            "$(tail -n 1 "$out/$name.err" 2>/dev/null)" | tee -a "$out/missing.txt"
    else
        printf '%s: %d s\n' "$name" $((SECONDS - begin))
    fi
}

watcher=''
# The peak of the GPU's used memory while a step runs, by nvidia-smi; the same yardstick for both sides.
watch_memory() {
    watcher=''
    command -v nvidia-smi >/dev/null || return 0
    (
        peak=0
        trap 'printf "%s\n" "$peak" >"$out/$1.memory"; exit 0' TERM
        while :; do
            used="$(nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits | head -n 1)"
            if ((used > peak)); then peak="$used"; fi
            sleep 0.05
        done
    ) &
    watcher=$!
}

stop_watching() {
    [[ -n "$watcher" ]] || return 0
    kill -TERM "$watcher" 2>/dev/null || true
    wait "$watcher" 2>/dev/null || true
    watcher=''
}

run() {
    local dir="$1" backend program
    out="${2:-gpu-results}"
    mkdir -p "$out"
    rm -f "$out"/*.txt "$out"/*.err "$out"/*.memory
    SECONDS=0
    if command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=name,driver_version,memory.total,memory.used --format=csv | tee "$out/device.csv"
    fi
    # The peer: speed of all cases, and one process that only trains, for its memory.
    if "$python" -c 'import torch' 2>/dev/null; then
        step 90 peer-layer "$python" "$peer" --device "$peer_device" --repeat "$repeat" --only layer
        step 90 peer-train "$python" "$peer" --device "$peer_device" --repeat "$repeat" --only train
    else
        printf 'peer: %s has no torch; set TORCH_PYTHON\n' "$python" | tee -a "$out/missing.txt"
    fi
    program="$dir/compare"
    if [[ ! -x "$program" ]]; then
        printf '%s: not built\n' "$program" | tee -a "$out/missing.txt"
        return 1
    fi
    for backend in $backends; do
        export BURN_DEVICE="$backend"
        step 60 "$backend-layer" "$program" ours --only layer --repeat "$repeat" "${rehearse[@]}"
        step 60 "$backend-wiki2" "$program" ours --case train/wiki2/ --repeat "$repeat" "${rehearse[@]}"
        step 60 "$backend-ptb" "$program" ours --case train/ptb/ --repeat "$repeat" "${rehearse[@]}"
        step 60 "$backend-wiki2-k300" "$program" ours --case train/wiki2-k300/ --repeat "$repeat" "${rehearse[@]}"
        step 60 "$backend-share" "$program" share --kernels "${rehearse[@]}"
        if [[ -n "${GPU_REHEARSE:-}" ]]; then
            step 60 "$backend-time-loop" "$program" time-loop --hidden 16 --batch 4 --steps 8 --repeat 1
            step 60 "$backend-growth" "$program" growth --k 4,8 --batch 2 --hidden 16 --vocabulary 100 --repeat 1
        else
            step 40 "$backend-time-loop" "$program" time-loop
            step 60 "$backend-growth" "$program" growth --k 10,30,100,300 --batch 16 --repeat 2
        fi
    done
    summary
}

# Ratios of tokens per second, where both sides have the case, and peak memory of the GPU per process.
summary() {
    local backend
    {
        for backend in $backends; do
            printf '\n%s against the peer (%s), loss tokens per second\n' "$backend" "$peer_device"
            cat "$out"/peer-*.txt "$out/$backend"-layer.txt "$out/$backend"-wiki2.txt "$out/$backend"-ptb.txt \
                "$out/$backend"-wiki2-k300.txt 2>/dev/null | "$python" -c '
import json, sys
ours, theirs = {}, {}
for line in sys.stdin:
    if line.startswith("{"):
        row = json.loads(line)
        (theirs if row["peer"].startswith("torch") else ours)[row["case"]] = row
for case in sorted(ours.keys() | theirs.keys()):
    us, them = ours.get(case), theirs.get(case)
    show = lambda row: "missing" if row is None else "%.0f (%.2f ms)" % (row["tokens_per_second"], 1e3 * row["seconds"])
    ratio = "%.2fx" % (us["tokens_per_second"] / them["tokens_per_second"]) if us and them else "-"
    print("| %s | %s | %s | %s |" % (case, ratio, show(us), show(them)))
'
            cat "$out/$backend-share.txt" "$out/$backend-time-loop.txt" "$out/$backend-growth.txt" 2>/dev/null || true
        done
        printf '\npeak memory of the GPU while each step ran, MiB (all processes)\n'
        grep -H . "$out"/*.memory 2>/dev/null | sed "s|^$out/||; s|\.memory:|: |" || printf 'nvidia-smi is not there\n'
        printf '\n%d s in all\n' "$SECONDS"
    } | tee "$out/summary.txt"
    if [[ -s "$out/missing.txt" ]]; then
        printf '\nmissing:\n'
        cat "$out/missing.txt"
    fi
}

case "${1:-}" in
build) build "${2:?$(usage)}" ;;
run) run "${2:?$(usage)}" "${3:-}" ;;
*) usage ;;
esac

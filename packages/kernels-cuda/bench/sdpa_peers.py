"""PyTorch's attention on this GPU, for bench-gpu.mjs to stand beside ours in the same run.

    python3 sdpa_peers.py < shapes.json

Reads a JSON list of {"B", "H", "Hkv", "N", "D", "causal"}; writes one JSON object a line, the shape with "peer" and "ms": the median of
event-timed calls on three sets of bfloat16 inputs in turn, queued together so that the GPU never waits for Python. A peer that cannot do
a shape is left out.
"""
import json
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

PEERS = {"cudnn-bf16": SDPBackend.CUDNN_ATTENTION, "flash2-bf16": SDPBackend.FLASH_ATTENTION}


def median_ms(call, sets, rounds):
    marks = []
    for turn in range(rounds + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call(*sets[turn % len(sets)])
        end.record()
        marks.append((start, end))
    torch.cuda.synchronize()
    times = sorted(start.elapsed_time(end) for start, end in marks[3:])
    return times[len(times) // 2]


for shape in json.load(sys.stdin):
    B, H, Hkv, N, D = (shape[name] for name in ("B", "H", "Hkv", "N", "D"))
    sets = [
        tuple(torch.randn(B, heads, N, D, device="cuda", dtype=torch.bfloat16) for heads in (H, Hkv, Hkv))
        for _ in range(3)
    ]
    for peer, backend in PEERS.items():
        try:
            with sdpa_kernel(backend):
                attend = lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(
                    q, k, v, is_causal=shape["causal"], enable_gqa=H != Hkv
                )
                print(json.dumps({**shape, "peer": peer, "ms": median_ms(attend, sets, 15)}), flush=True)
        except RuntimeError as error:
            print(f"{peer} {shape}: {error}", file=sys.stderr)
    del sets

"""Hugging Face transformers on this GPU, for decoder.bench.mjs to stand beside ours in the same run.

    python3 transformers_peer.py [--models 8B,1B] [--batch 1,64] [--prompt 512,8192] [--seconds 95]

Llama of the given shapes with random bfloat16 weights, made on the GPU: SDPA attention, StaticCache, decoding compiled with
torch.compile(mode="reduce-overhead"), greedy. One JSON object a line, as soon as it is known: "pp512" are tokens/s of reading 512 tokens of one
sequence at once (not compiled, as transformers itself does it), "tg128" tokens/s of 128 steps in all sequences together. What would not be over in
`--seconds` is left out; compiling takes most of it, and `--batch ''` only reads.
"""
import argparse
import json
import os
import signal
import sys
import time

import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, StaticCache

SHAPES = {
    "1B": dict(num_hidden_layers=16, hidden_size=2048, num_attention_heads=32, num_key_value_heads=8, head_dim=64, intermediate_size=8192),
    "8B": dict(num_hidden_layers=32, hidden_size=4096, num_attention_heads=32, num_key_value_heads=8, head_dim=128, intermediate_size=14336),
    # A shape to try the script with, on a CPU too.
    "tiny": dict(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16, intermediate_size=128),
}
VOCABULARY, STEPS = 128256, 128
COMPILE_SECONDS = 25  # a case is not begun with less left

parser = argparse.ArgumentParser()
parser.add_argument("--models", default="8B,1B")
parser.add_argument("--batch", default="1,64")
parser.add_argument("--prompt", default="512,8192")
parser.add_argument("--seconds", type=int, default=95)
options = parser.parse_args()
end = time.monotonic() + options.seconds
device = "cuda" if torch.cuda.is_available() else "cpu"


def out_of_time(*_):
    print("out of time", file=sys.stderr, flush=True)
    os._exit(0)  # compilers' processes and threads would be waited for


def synchronize():
    if device == "cuda":
        torch.cuda.synchronize()


def forward(model, ids, first, cache):
    """The next token of each sequence; `first`: a tensor, position of the first of `ids`."""
    positions = (first + torch.arange(ids.shape[1], device=device)).unsqueeze(0).expand(ids.shape[0], -1)
    logits = model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    return logits[:, -1].argmax(-1, keepdim=True)


def tokens(*shape):
    return torch.randint(0, VOCABULARY, shape, device=device)


def median_seconds(call, rounds):
    times = []
    for turn in range(rounds + 1):
        synchronize()
        started = time.perf_counter()
        call()
        synchronize()
        if turn > 0:
            times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


def read_rate(model, config, prompt):
    cache, ids = StaticCache(config=config, max_cache_len=prompt), tokens(1, prompt)
    zero = torch.zeros((), dtype=torch.long, device=device)

    def read():
        cache.reset()
        forward(model, ids, zero, cache)

    return prompt / median_seconds(read, 5)


def write_rate(model, config, batch):
    cache = StaticCache(config=config, max_cache_len=256)
    at = torch.zeros((), dtype=torch.long, device=device)
    ids = forward(model, tokens(batch, 2), at, cache)  # not compiled: it allocates the cache
    at += 2
    step = torch.compile(forward, mode="reduce-overhead", dynamic=False)
    started = time.monotonic()
    for _ in range(4):  # compiles, then records
        ids = step(model, ids, at, cache).clone()
        at += 1
    synchronize()
    compiled = time.monotonic() - started
    started = time.perf_counter()
    for _ in range(STEPS):
        ids = step(model, ids, at, cache).clone()
        at += 1
    synchronize()
    return batch * STEPS / (time.perf_counter() - started), compiled


signal.signal(signal.SIGALRM, out_of_time)
signal.alarm(options.seconds)
software = {"torch": torch.__version__, "transformers": transformers.__version__}
for name in options.models.split(","):
    if end - time.monotonic() < COMPILE_SECONDS:
        break
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=8192, tie_word_embeddings=name != "8B", **SHAPES[name])
    with torch.device(device), torch.no_grad():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
    with torch.no_grad():
        read = {f"pp{prompt}": read_rate(model, config, prompt) for prompt in map(int, options.prompt.split(","))}
        line = {"bench": "decoder", "peer": "transformers-bf16", "model": name, "context": 0, **read}
        print(json.dumps({**line, **software}), flush=True)
        for batch in map(int, filter(None, options.batch.split(","))):
            if end - time.monotonic() < COMPILE_SECONDS:
                break
            tg128, compiled = write_rate(model, config, batch)
            print(json.dumps({**line, "batch": batch, "tg128": tg128, "compileSeconds": round(compiled, 1), **software}), flush=True)
            torch._dynamo.reset()
    del model
    if device == "cuda":
        torch.cuda.empty_cache()
os._exit(0)  # as above

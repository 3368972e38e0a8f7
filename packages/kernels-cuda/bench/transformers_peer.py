"""Hugging Face transformers on this GPU, for decoder.bench.mjs to stand beside ours in the same run.

    python3 transformers_peer.py [--models Llama-3.1-8B,Qwen3-8B] [--context 0,8192] [--batch 1,64] [--prompt 512,8192] [--seconds 95]

Models of decoder-shapes.json with random bfloat16 weights, made on the GPU: SDPA attention, StaticCache, decoding compiled with
torch.compile(mode="reduce-overhead"), greedy. One JSON object a line, as soon as it is known: "read" are tokens/s of reading `prompt` tokens of one
sequence at once (not compiled, as transformers itself does it), "tg128" tokens/s of 128 steps in all sequences together, behind `--context` tokens that
the cache has room for (a static cache is read whole whatever it holds, so they are not computed; its keys and values have 16 bits each). What would not be over
in `--seconds` is left out, and so is what does not fit the memory; compiling takes most of it, and `--batch ''` only reads. On a CPU `--models tiny` tries the script.
"""
import argparse
import itertools
import json
import os
import pathlib
import signal
import sys
import time

import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config, StaticCache

SHAPES = json.loads(pathlib.Path(__file__).with_name("decoder-shapes.json").read_text())
SHAPES["tiny"] = dict(SHAPES["demo"], layers=2, hiddenSize=64, heads=4, kvHeads=2, headDim=16, intermediateSize=128, headNorms=True)
STEPS = 128
MOST_POSITIONS = 131072
BUILD_SECONDS, COMPILE_SECONDS = 10, 25  # a model, a case is not begun with less left

parser = argparse.ArgumentParser()
parser.add_argument("--models", default="Llama-3.1-8B")
parser.add_argument("--context", default="0")
parser.add_argument("--batch", default="1,64")
parser.add_argument("--prompt", default="8192")
parser.add_argument("--seconds", type=int, default=95)
options = parser.parse_args()
unknown = [name for name in options.models.split(",") if name not in SHAPES]
if unknown:
    parser.error(f"expected --models to be some of {', '.join(SHAPES)}, with commas; got {', '.join(unknown)}")
end = time.monotonic() + options.seconds
device = "cuda" if torch.cuda.is_available() else "cpu"


def numbers(text):
    return [int(number) for number in text.split(",") if number]


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
    return torch.randint(0, vocabulary, shape, device=device)


def config_of(shape):
    return (Qwen3Config if shape["headNorms"] else LlamaConfig)(
        vocab_size=shape["vocabSize"], hidden_size=shape["hiddenSize"], intermediate_size=shape["intermediateSize"],
        num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"], num_key_value_heads=shape["kvHeads"],
        head_dim=shape["headDim"], max_position_embeddings=MOST_POSITIONS, tie_word_embeddings=shape["tied"],
    )


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


def write_rate(model, config, batch, context):
    cache = StaticCache(config=config, max_cache_len=context + 256)
    at = torch.zeros((), dtype=torch.long, device=device)
    ids = forward(model, tokens(batch, 2), at, cache)  # not compiled: it allocates the cache
    at += 2 + context
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
    if end - time.monotonic() < BUILD_SECONDS:
        break
    config, vocabulary = config_of(SHAPES[name]), SHAPES[name]["vocabSize"]
    with torch.device(device), torch.no_grad():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
    with torch.no_grad():
        line = {"bench": "decoder", "peer": "transformers", "model": name, "weights": "bf16", "cache": "bf16", **software}
        for prompt in numbers(options.prompt):
            print(json.dumps({**line, "context": 0, "prompt": prompt, "read": round(read_rate(model, config, prompt), 1)}), flush=True)
        for context, batch in itertools.product(numbers(options.context), numbers(options.batch)):
            if end - time.monotonic() < COMPILE_SECONDS:
                break
            try:
                tg128, compiled = write_rate(model, config, batch, context)
            except torch.OutOfMemoryError:
                print(f"{name}: {batch} sequences of {context} tokens do not fit the memory", file=sys.stderr, flush=True)
            else:
                print(json.dumps({**line, "context": context, "batch": batch, "tg128": round(tg128, 1), "compileSeconds": round(compiled, 1)}), flush=True)
            torch._dynamo.reset()
            if device == "cuda":
                torch.cuda.empty_cache()
    del model
    if device == "cuda":
        torch.cuda.empty_cache()
os._exit(0)  # as above

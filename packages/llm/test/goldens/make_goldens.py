"""Makes the small random checkpoints beside this file, one an architecture, with reference outputs.

    python make_goldens.py --out .

Needs PyTorch and transformers 5. Weights are bf16 on disk; transformers computes in float32 on a CPU from exactly those
weights. golden.json: for each prompt its token ids, the logits after the last of them, and the greedy continuation with
the least gap between the best two logits on its way (a near-tie there may legitimately part in lower precision).
"""
import argparse
import json
import os

import torch
import transformers
from safetensors.torch import save_file
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

VOCAB, GREEDY = 97, 24
SIZES = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, intermediate_size=48, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=1, pad_token_id=1)


def rope(**more):
    return dict(rope_theta=10000.0, **more)


CONFIGS = {
    "llama": lambda: LlamaConfig(**SIZES, head_dim=8, tie_word_embeddings=False, rope_parameters=rope(rope_type="default")),
    "llama-llama3-rope": lambda: LlamaConfig(**SIZES, head_dim=16, tie_word_embeddings=True, rope_parameters=rope(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)),
    "llama-yarn": lambda: LlamaConfig(**SIZES, head_dim=16, tie_word_embeddings=True, rope_parameters=rope(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=64)),
    "llama-linear-rope": lambda: LlamaConfig(**SIZES, head_dim=8, tie_word_embeddings=True, mlp_bias=True, attention_bias=True,
                                             rope_parameters=rope(rope_type="linear", factor=2.0)),
    "mistral-sliding": lambda: MistralConfig(**SIZES, head_dim=8, sliding_window=16, tie_word_embeddings=False,
                                             rope_parameters=rope(rope_type="default")),
    "qwen2": lambda: Qwen2Config(**SIZES, tie_word_embeddings=True, rope_parameters=rope(rope_type="default")),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True, rope_parameters=rope(rope_type="default")),
    "gpt2": lambda: GPT2Config(vocab_size=VOCAB, n_positions=256, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1,
                               pad_token_id=1),
}


def randomize(model, generator):
    """Larger than usual initial weights: logits must differ enough for a greedy path to mean something."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            is_gain = weight.ndim == 1 and name.endswith("weight")
            value = 1 + 0.2 * noise if is_gain else 0.1 * noise if weight.ndim == 1 else noise * (0.5 if "emb" in name or "wte" in name else 0.25)
            weight.copy_(value.to(torch.bfloat16).float())


def reference(model, ids):
    path, gap = [], float("inf")
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
        first = logits
        for _ in range(GREEDY):
            best = torch.topk(logits, 2)
            gap = min(gap, float(best.values[0] - best.values[1]))
            path.append(int(best.indices[0]))
            logits = model(torch.tensor([ids + path])).logits[0, -1]
    return dict(ids=ids, logits=[round(float(x), 6) for x in first], greedy_ids=path, smallest_gap=round(gap, 5))


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--out", default=".")
    out = args.parse_args().out
    for seed, (name, config) in enumerate(CONFIGS.items()):
        generator = torch.Generator().manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config(), attn_implementation="eager").float().eval()
        randomize(model, generator)
        folder = os.path.join(out, name)
        os.makedirs(folder, exist_ok=True)
        tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
        state = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items() if k not in tied}
        save_file(state, os.path.join(folder, "model.safetensors"), metadata=dict(format="pt"))
        with open(os.path.join(folder, "config.json"), "w", encoding="utf8") as f:
            saved = {k: v for k, v in model.config.to_dict().items() if v is not None and k not in ("_name_or_path", "id2label", "label2id")}
            json.dump(dict(saved, architectures=[type(model).__name__]), f, indent=1, sort_keys=True, default=str)
            f.write("\n")
        prompts = [torch.randint(2, VOCAB, (n,), generator=generator).tolist() for n in (1, 17, 90)]
        golden = dict(transformers=transformers.__version__, torch=torch.__version__, prompts=[reference(model, ids) for ids in prompts])
        with open(os.path.join(folder, "golden.json"), "w", encoding="utf8") as f:
            json.dump(golden, f)
            f.write("\n")
        print(name, "gaps", [p["smallest_gap"] for p in golden["prompts"]])


main()

"""Reference outputs for the INT8 checkpoint, from its dequantized weights.

    python scripts/golden_int8.py --model . --out goldens

Reads the INT8 safetensors, multiplies each row of codes by its scale in float32, and lets transformers compute in float32
on a CPU from that: no INT8 activations, no INT8 attention. What differs from this is the runtime's own arithmetic. Writes
golden.json and golden_logits.safetensors in the layout of bf16-goldens/. Needs PyTorch, safetensors and transformers 5.
"""
import argparse, glob, hashlib, json, math, os
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM
from export import CONTEXT, GOLDEN, greedy, losses, prompt_ids, write_json


def dequantized(folder):
    """The float32 state dict: weight = codes * weight_scale, a scale a row; everything else as stored."""
    stored = {k: v for f in sorted(glob.glob(os.path.join(folder, "*.safetensors"))) for k, v in load_file(f).items()}
    state, rows = {}, 0
    for name, value in stored.items():
        if name.endswith(".weight_scale") or name.endswith(".weight_shape"):
            continue
        scale = stored.get(name + "_scale")
        if scale is not None:
            assert value.dtype == torch.int8 and scale.numel() == value.shape[0], name
            value = value.float() * scale.float().reshape(-1, 1)
            rows += scale.numel()
        state[name] = value.float()
    print(f"{len(state)} tensors, {rows} rows dequantized")
    return state


def main():
    ap = argparse.ArgumentParser()
    for name in ("model", "out"):
        ap.add_argument("--" + name, required=True)
    a = ap.parse_args()
    os.makedirs(a.out, exist_ok=True)
    transformers.logging.set_verbosity_error()
    config = AutoConfig.from_pretrained(a.model)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = LlamaForCausalLM(config).float().eval()
    missing, unexpected = model.load_state_dict(dequantized(a.model), strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    tok = AutoTokenizer.from_pretrained(a.model)
    files = sorted(os.path.basename(f) for f in glob.glob(os.path.join(a.model, "*.safetensors")))
    golden = dict(about="Computed by transformers in float32 on a CPU from the dequantized weights of the INT8 checkpoint. Greedy continuations "
                        "do not stop at the end token (id 1); first_end is where a runtime that stops would stop. smallest_gap is the least "
                        "distance between the best two logits on the greedy path.",
                  transformers=transformers.__version__, torch=torch.__version__,
                  sha256={f: hashlib.sha256(open(os.path.join(a.model, f), "rb").read()).hexdigest() for f in files + ["tokenizer.json"]},
                  prompts=[], heldout={})
    tensors = {}
    for name, prompt in GOLDEN:
        ids = prompt_ids(tok, prompt)
        out, gaps = greedy(model, ids, 64)
        with torch.no_grad():
            last = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        tensors[name] = last.float().contiguous()
        key = dict(text=prompt) if isinstance(prompt, str) else dict(
            messages=prompt, rendered=tok.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))
        golden["prompts"].append(dict(name=name, **key, ids=ids, greedy_ids=out, greedy_text=tok.decode(out, skip_special_tokens=False),
                                      first_end=out.index(1) if 1 in out else None, smallest_gap=round(min(gaps), 5)))
        print(f"{name}: gap {min(gaps):.4f}", flush=True)
    for name in ("eval_sgd", "eval_oz"):
        text = open(os.path.join(a.model, name + ".txt"), encoding="utf8", newline="").read()
        ids = tok(text, add_special_tokens=False)["input_ids"]
        nll = losses(model, ids)
        tensors[name + "_nats"] = nll
        mean = float(nll.double().mean())
        golden["heldout"][name] = dict(file=name + ".txt", tokens=len(ids), window=CONTEXT, predicted=len(nll), nats_per_token=round(mean, 6),
                                       perplexity=round(math.exp(mean), 4))
        print(name, golden["heldout"][name], flush=True)
    write_json(a.out, "golden.json", golden)
    save_file(tensors, os.path.join(a.out, "golden_logits.safetensors"))


if __name__ == "__main__":
    main()

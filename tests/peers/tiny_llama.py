"""Goldens of six tiny decoders from `transformers`: llama, mistral (sliding window), qwen2 (biases), qwen3 (q and k norms), and llama
with its rotary frequencies scaled as Llama 3.1 does and linearly.

The weights are a formula, so that Rust makes the same bits. For element i of the tensor called `name`, in u32 arithmetic that wraps:

    h = FNV-1a of name (offset 2166136261, prime 16777619)
    x = (i * 2654435761) ^ h
    x ^= x >> 16;  x *= 0x85ebca6b;  x ^= x >> 13;  x *= 0xc2b2ae35;  x ^= x >> 16
    u = (x >> 8) / 2^24 - 0.5                      exact in f32
    w = 1 + u / 2 where name ends in "norm.weight"; u for "model.embed_tokens.weight"; u / 2 for all else (f32 arithmetic)
"""

import argparse
import hashlib
import json
import pathlib

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from common import CACHE, GOLDEN, write_golden

BASE = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96,
    "intermediate_size": 128, "hidden_act": "silu", "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "attention_dropout": 0.0, "tie_word_embeddings": False, "torch_dtype": "float32", "use_cache": True,
    "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.02,
}
VARIANTS = {
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "mlp_bias": False, "rope_scaling": None},
    # Of the eight wavelengths, 6 to 20,000 places, some are kept, some divided, and one is in between.
    "llama3": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "mlp_bias": False,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    },
    "linear": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "mlp_bias": False,
        "rope_scaling": {"type": "linear", "factor": 4.0},
    },
    "mistral": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 8},
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 2,
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 32, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "attention_bias": False, "tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": None,
        "max_window_layers": 2, "rope_scaling": None,
    },
}
PROMPT = [3, 17, 42, 95, 8, 64, 64, 1, 29, 77, 50, 11]
DECODE = 4


def weight(name: str, shape) -> np.ndarray:
    h = 2166136261
    for byte in name.encode():
        h = ((h ^ byte) * 16777619) & 0xFFFFFFFF
    x = (np.arange(np.prod(shape), dtype=np.uint32) * np.uint32(2654435761)) ^ np.uint32(h)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    u = (x >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24) - np.float32(0.5)
    if name.endswith("norm.weight"):
        u = np.float32(1) + u / np.float32(2)
    elif name != "model.embed_tokens.weight":
        u = u / np.float32(2)
    return u.reshape(shape)


def tensors(c: dict) -> dict:
    """Name to shape, as the published checkpoints have them."""
    hidden, ff, heads, kv = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"], c["num_key_value_heads"]
    dim = c.get("head_dim") or hidden // heads
    shapes = {"model.embed_tokens.weight": [c["vocab_size"], hidden], "model.norm.weight": [hidden]}
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = [c["vocab_size"], hidden]
    for n in range(c["num_hidden_layers"]):
        at = f"model.layers.{n}."
        shapes |= {at + "input_layernorm.weight": [hidden], at + "post_attention_layernorm.weight": [hidden]}
        for name, rows in (("q", heads * dim), ("k", kv * dim), ("v", kv * dim)):
            shapes[f"{at}self_attn.{name}_proj.weight"] = [rows, hidden]
            if c["model_type"] == "qwen2":
                shapes[f"{at}self_attn.{name}_proj.bias"] = [rows]
        shapes[at + "self_attn.o_proj.weight"] = [hidden, heads * dim]
        if c["model_type"] == "qwen3":
            shapes |= {at + "self_attn.q_norm.weight": [dim], at + "self_attn.k_norm.weight": [dim]}
        shapes |= {at + f"mlp.{name}_proj.weight": [ff, hidden] for name in ("gate", "up")}
        shapes[at + "mlp.down_proj.weight"] = [hidden, ff]
    return shapes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=pathlib.Path, default=CACHE / "tiny", help="where config.json and model.safetensors are written")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for variant, differences in VARIANTS.items():
        config = BASE | differences
        folder = args.models / variant
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(config, indent=2) + "\n"
        (folder / "config.json").write_text(text)
        GOLDEN.mkdir(exist_ok=True)
        (GOLDEN / f"tiny_{variant}.config.json").write_text(text)
        weights = {name: weight(name, shape) for name, shape in sorted(tensors(config).items())}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        digest = hashlib.sha256(b"".join(w.tobytes() for w in weights.values())).hexdigest()

        loaded = AutoConfig.from_pretrained(folder)
        model = AutoModelForCausalLM.from_config(loaded, dtype=torch.float64, attn_implementation="eager").eval()
        state = {name: torch.from_numpy(w).double() for name, w in weights.items()}
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
        with torch.no_grad():
            prompt = model(torch.tensor([PROMPT]), use_cache=True)
            # The same as the single-precision model, from its file, but for rounding.
            single = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
            gap = (single(torch.tensor([PROMPT])).logits.double() - prompt.logits).abs().max().item()
            assert gap < 1e-4, gap
            ids, steps, cache = [int(prompt.logits[0, -1].argmax())], [], prompt.past_key_values
            for _ in range(DECODE):
                step = model(torch.tensor([[ids[-1]]]), past_key_values=cache, use_cache=True)
                steps.append(step.logits[0, -1])
                ids.append(int(step.logits[0, -1].argmax()))
            again = model(torch.tensor([PROMPT + ids[:-1]])).logits[0, -DECODE:]
            assert (again - torch.stack(steps)).abs().max() < 1e-4
        # What the plain frequencies are divided by, which GGUF files have as `rope_freqs.weight`.
        dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        plain = config["rope_theta"] ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        divisors = (plain / model.model.rotary_emb.inv_freq.double()).tolist()
        numbers = lambda row: [round(v, 6) for v in row.tolist()]
        write_golden(f"tiny_{variant}.json", "tiny_llama.py", {
            "by": f"transformers {transformers.__version__}, {type(model).__name__}, float64 (its norms and softmax compute in float32), eager attention",
            "config": f"tiny_{variant}.config.json",
            "weights": "the formula at the top of tiny_llama.py",
            "weights_sha256": digest,
            "weights_sha256_of": "the f32 bytes, little endian, of all tensors in order of their names",
            "shapes": {name: list(w.shape) for name, w in weights.items()},
            "first_values": {name: [float(v) for v in w.flat[:4]] for name, w in list(weights.items())[:3]},
            "float32_differs_by": float(f"{gap:.2g}"),
            **({"rope_divisors": [round(v, 6) for v in divisors]} if config.get("rope_scaling") else {}),
            "prompt": PROMPT,
            "prompt_logits": "one row a position",
            **{f"prompt_logits_{n}": numbers(row) for n, row in enumerate(prompt.logits[0])},
            "greedy": ids,
            "decode_logits": "row n: after greedy[n] was fed at position 12 + n",
            **{f"decode_logits_{n}": numbers(row) for n, row in enumerate(steps)},
        })


if __name__ == "__main__":
    main()

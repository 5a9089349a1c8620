"""The golden of SmolLM2 against others: `transformers` in float32 over the same dequantized weights, and llama.cpp with AMX's tiles."""

import argparse
import json

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from common import GOLDEN, fetch
from llama_cpp_bench import Context
from smollm2_golden import greedy


def gaps(case, logits):
    eight = max(abs(a - float(b)) for a, b in zip(case["first_logits_8"], logits))
    return f"first 8 within {eight:.2g}, top 5 within {max(abs(v - float(logits[i])) for i, v in case['first_logits_top5']):.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--amx", action="store_true")
    args = parser.parse_args()
    path = fetch("smollm2.gguf")
    model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32).eval()
    amx = Context(extra=True) if args.amx else None
    for case in json.loads((GOLDEN / "smollm2.json").read_text())["prompts"]:
        with torch.no_grad():
            logits = model(torch.tensor([case["prompt"] + case["ids"][:-1]])).logits[0, len(case["prompt"]) - 1 :]
        assert logits.argmax(-1).tolist() == case["ids"], case["name"]
        print(f"{case['name']}: transformers: {gaps(case, logits[0])}, same ids")
        if amx:
            ids, logits = greedy(amx, case["prompt"])
            at = next((i for i, (a, b) in enumerate(zip(ids, case["ids"])) if a != b), None)
            print(f"{case['name']}: llama.cpp with AMX: {gaps(case, np.asarray(logits[0]))}, differs at {at}")


if __name__ == "__main__":
    main()

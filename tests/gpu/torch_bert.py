"""The network of `cargo bench --bench programs` in PyTorch, on the same made-up weights: milliseconds of a forward pass on a GPU.

    python tests/gpu/torch_bert.py WEIGHTS.safetensors      # the file that `programs --weights` has written

Eager, in f32: with TF32 off, which is PyTorch's default for products, and with it on. A round ends when the GPU is done.
"""

import statistics
import sys
import time

import torch
from safetensors.torch import load_file
from torch.nn import functional

WIDTH, HEADS, LAYERS, VOCABULARY, EPS = 384, 12, 6, 1000, 1e-12
SHAPES = [(1, 16, 300), (1, 128, 200), (32, 16, 200), (32, 128, 100)]


class Bert:
    def __init__(self, path: str) -> None:
        self.w = load_file(path, device="cuda")

    def norm(self, x, name):
        return functional.layer_norm(x, (WIDTH,), self.w[f"{name}.weight"], self.w[f"{name}.bias"], EPS)

    def linear(self, x, name):
        return functional.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def __call__(self, ids, mask):
        batch, tokens = ids.shape
        x = functional.embedding(ids, self.w["words"]) + self.w["positions"][:tokens]
        x = self.norm(x, "norm")
        mask = (mask * 1e4 - 1e4)[:, None, None, :]
        for i in range(LAYERS):
            q, k, v = (
                self.linear(x, f"{i}.{name}").view(batch, tokens, HEADS, WIDTH // HEADS).transpose(1, 2)
                for name in ("query", "key", "value")
            )
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            mixed = mixed.transpose(1, 2).reshape(batch, tokens, WIDTH)
            x = self.norm(self.linear(mixed, f"{i}.output") + x, f"{i}.norm1")
            inner = functional.gelu(self.linear(x, f"{i}.inner"))
            x = self.norm(self.linear(inner, f"{i}.outer") + x, f"{i}.norm2")
        return x


def main() -> None:
    bert = Bert(sys.argv[1])
    print(f"PyTorch {torch.__version__}, {torch.cuda.get_device_name()}, eager; milliseconds (fastest, median)")
    for batch, tokens, rounds in SHAPES:
        n = batch * tokens
        ids = torch.tensor([i * 7919 % VOCABULARY for i in range(n)]).view(batch, tokens).cuda()
        mask = torch.tensor([float(i % tokens < tokens - (i // tokens) % 4) for i in range(n)]).view(batch, tokens).cuda()
        for tf32 in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = tf32
            times = []
            with torch.inference_mode():
                for at in range(rounds + 20):
                    start = time.perf_counter()
                    out = bert(ids, mask)
                    torch.cuda.synchronize()
                    if at >= 20:
                        times.append((time.perf_counter() - start) * 1e3)
            size = out.abs().double().mean().item()
            print(
                f"{batch:2} x {tokens:3}, TF32 {'on ' if tf32 else 'off'}: {min(times):8.3f} {statistics.median(times):8.3f}"
                f"   outputs are {size:.6f} on average"
            )


if __name__ == "__main__":
    main()

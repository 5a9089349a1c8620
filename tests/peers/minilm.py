"""MiniLM-L6 in float32: ids and mask to the mean of the last hidden state over tokens, length 1. ONNX Runtime and PyTorch eager."""

import argparse
import pathlib
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from common import CACHE, THREADS, fetch, measure, report

SHAPES = [(1, 16), (1, 128), (32, 16), (32, 128)]


class Embed(torch.nn.Module):
    def __init__(self, attention: str):
        super().__init__()
        config = BertConfig(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, layer_norm_eps=1e-12,
            vocab_size=30522, attn_implementation=attention,
        )
        self.bert = BertModel(config, add_pooling_layer=False)
        state = {k: v for k, v in load_file(fetch("minilm.safetensors")).items() if not k.startswith("pooler")}
        state.pop("embeddings.position_ids", None)
        missing, unexpected = self.bert.load_state_dict(state, strict=False)
        assert not unexpected and not [k for k in missing if not k.endswith("_ids")], (missing, unexpected)
        self.eval()

    def forward(self, ids, mask):
        hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        total = (hidden * mask.unsqueeze(-1).to(hidden.dtype)).sum(1)
        return total / total.norm(dim=-1, keepdim=True)


def export(folder: pathlib.Path) -> tuple:
    """The graph as exported, and what onnxruntime's transformer optimizer makes of it."""
    plain, fused = folder / "minilm.onnx", folder / "minilm.fused.onnx"
    if not fused.exists():
        ids = torch.ones(2, 16, dtype=torch.int64)
        axes = {0: "batch", 1: "tokens"}
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                Embed("eager"), (ids, ids), str(plain), dynamo=False, opset_version=17, input_names=["ids", "mask"],
                output_names=["embedding"], dynamic_axes={"ids": axes, "mask": axes, "embedding": {0: "batch"}},
            )
        options = FusionOptions("bert")
        model = optimizer.optimize_model(str(plain), "bert", num_heads=12, hidden_size=384, optimization_options=options)
        model.save_model_to_file(str(fused))
        print("# fused:", {k: v for k, v in model.get_fused_operator_statistics().items() if v})
    return plain, fused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    plain, fused = (onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]) for path in export(CACHE))
    eager = Embed("sdpa")
    random = np.random.default_rng(0)
    for batch, tokens in SHAPES:
        ids = random.integers(1000, 30000, (batch, tokens))
        mask = np.ones_like(ids)
        inputs = {"ids": ids, "mask": mask}
        ids_t, mask_t = torch.from_numpy(ids), torch.from_numpy(mask)

        def torch_eager():
            with torch.inference_mode():
                return eager(ids_t, mask_t)

        cases = {
            f"onnxruntime {onnxruntime.__version__}": lambda: plain.run(None, inputs)[0],
            f"onnxruntime {onnxruntime.__version__}, transformer optimizer": lambda: fused.run(None, inputs)[0],
            f"pytorch {torch.__version__} eager, transformers' BertModel": torch_eager,
        }
        want = torch_eager().numpy()
        for name, case in cases.items():
            gap = np.abs(np.asarray(case()) - want).max()
            assert gap < 1e-4, (name, gap)
        for name, times in measure(cases, rounds=args.rounds, each=3 if batch * tokens > 1000 else 10).items():
            report(name, "MiniLM-L6 f32", f"{batch}x{tokens}", times)


if __name__ == "__main__":
    main()

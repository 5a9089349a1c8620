"""SmolLM2-135M-Instruct Q4_1 in llama.cpp: prefill of 32, 128 and 512 tokens, and greedy decode of 128 tokens after a prompt of 32."""

import argparse

import llama_cpp
import numpy as np

from common import THREADS, fetch, measure, report

MODEL = "SmolLM2-135M-Instruct Q4_1"


class Context:
    """The C interface, without what the Python binding does about each call."""

    def __init__(self, extra: bool = False, **settings):
        # The extra buffer types are AMX's tiles where the processor has them: Q4_1 and Q8_0 have no other on x86.
        defaults = llama_cpp.llama_cpp.llama_model_default_params

        def parameters():
            given = defaults()
            given.use_extra_bufts = extra
            return given

        llama_cpp.llama_cpp.llama_model_default_params = parameters
        self.llama = llama_cpp.Llama(
            str(fetch("smollm2.gguf")), n_ctx=1024, n_batch=512, n_ubatch=512, n_threads=THREADS, n_threads_batch=THREADS,
            verbose=False, **settings,
        )
        llama_cpp.llama_cpp.llama_model_default_params = defaults
        self.context = self.llama.ctx
        self.vocab = self.llama.n_vocab()

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def feed(self, ids) -> np.ndarray:
        """The last id's logits."""
        array = (llama_cpp.llama_token * len(ids))(*ids)
        if llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(array, len(ids))):
            raise RuntimeError("llama_decode failed")
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, -1), (self.vocab,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--amx", action="store_true", help="AMX's tiles too; a build without the flags of `setup` faults with GCC 12")
    args = parser.parse_args()
    random = np.random.default_rng(0)
    prompts = {n: random.integers(100, 49000, n).tolist() for n in (32, 128, 512)}

    def cases(model, of):
        def prefill(n):
            def run():
                model.clear()
                model.feed(prompts[n])[0]
            return run

        def decode():
            """From a filled cache: the 32 prompt tokens are put back before each run, outside the time."""
            token = decode.first
            for _ in range(128):
                token = int(model.feed([token]).argmax())

        def ready():
            model.clear()
            decode.first = int(model.feed(prompts[32]).argmax())

        decode.ready = ready
        runs = {f"prefill {n}": prefill(n) for n in prompts} | {"decode 128": decode}
        return {(of, name): run for name, run in runs.items()}

    peer = f"llama.cpp (llama-cpp-python {llama_cpp.__version__})"
    both = cases(Context(), peer + ", without AMX")
    if args.amx:
        both |= cases(Context(extra=True), peer + ", AMX")
    for (of, name), times in measure(dict(sorted(both.items(), key=lambda case: case[0][1])), args.rounds, each=2).items():
        report(of, MODEL, name + (" at batch 1" if "decode" in name else ""), times, tokens=int(name.split()[1]))


if __name__ == "__main__":
    main()

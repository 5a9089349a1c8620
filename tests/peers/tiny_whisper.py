"""The golden of a tiny Whisper of many languages from `transformers`: languages told and found, tasks, times, several windows.

No weights of a small one are in a package, so these are a formula, as in tiny_llama.py, but for the scales:

    w = 1 + u / 2 where name ends in "norm.weight"; u / 4 for biases; 4 u for "model.decoder.embed_positions.weight"; u / 2 for all else

and the recording is one, too: sample i at 16 kHz is (i * i / 512 + 11 * i) % 9001 - 4500, of 16 bits, division and remainder whole.
A window is decoded by `generate`; where the next begins, OpenAI's `transcribe.py` says.
"""

import argparse
import json

import numpy as np
import torch
import transformers
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.generation import GenerationMixin, LogitsProcessorList, WhisperTimeStampLogitsProcessor
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from common import write_golden
from tiny_llama import weight as hashed

SECONDS, RATE, FRAMES = 34, 16000, 3000
END, START, TRANSLATE, TRANSCRIBE, SILENCE, PLAIN, TIME = 50257, 50258, 50358, 50359, 50362, 50363, 50364
SUPPRESSED = [1, 2, 7, 8, 9, 10, 14, 25, 26, 27, START, 50358, 50359, 50360, 50361, 50362]
FIRST = [220, END]
CONFIG = {
    "vocab_size": 51865, "num_mel_bins": 80, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 1,
    "decoder_attention_heads": 1, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_source_positions": 1500, "max_target_positions": 448,
    "pad_token_id": END, "bos_token_id": END, "eos_token_id": END, "decoder_start_token_id": START, "dropout": 0.0,
}
CASES = {
    "told": {"language": "fr", "translate": False, "timestamps": True},
    "found": {"language": None, "translate": True, "timestamps": True},
    "plain": {"language": "de", "translate": False, "timestamps": False},
}


def weight(name: str, shape) -> np.ndarray:
    # The base formula halves what is neither a norm nor an embedding table; norms it knows by the same ending. Places weigh more than
    # tokens, so that the model does not say one token for ever.
    w = hashed(name, shape)
    if name == "model.decoder.embed_tokens.weight":
        return w
    if name == "model.decoder.embed_positions.weight":
        return w * np.float32(8)
    return w / np.float32(2) if name.endswith("bias") else w


def recording() -> np.ndarray:
    i = np.arange(SECONDS * RATE, dtype=np.int64)
    return ((i * i // 512 + 11 * i) % 9001 - 4500).astype(np.int16)


def split(ids: list, seek: int, size: int) -> tuple:
    """Pieces (start, end, text ids) of a window, and how far the next begins."""
    text = lambda ids: [t for t in ids if t < END]
    at = lambda t: round(seek * 0.01 + (t - TIME) * 0.02, 2)
    cuts = [i for i in range(1, len(ids)) if ids[i - 1] >= TIME and ids[i] >= TIME]
    if not cuts:
        times = [t for t in ids if t > TIME]
        return [(seek * 0.01, at(times[-1]) if times else round((seek + size) * 0.01, 2), text(ids))], size
    single = len(ids) > 1 and ids[-1] >= TIME and ids[-2] < TIME
    next_ = size if single else (ids[cuts[-1] - 1] - TIME) * 2 or size
    pieces, start = [], 0
    for cut in cuts + ([len(ids)] if single else []):
        piece = ids[start:cut]
        pieces.append((at(piece[0]), at(piece[-1]), text(piece)))
        start = cut
    return pieces, next_


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(2)
    model = WhisperForConditionalGeneration(WhisperConfig(**CONFIG)).eval()
    shapes = {name: list(t.shape) for name, t in sorted(model.state_dict().items()) if name != "proj_out.weight"}
    state = {name: torch.from_numpy(weight(name, shape)) for name, shape in shapes.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"proj_out.weight"}, (missing, unexpected)
    model.tie_weights()
    g = model.generation_config
    g.is_multilingual, g.no_timestamps_token_id, g.max_initial_timestamp_index = True, PLAIN, 50
    g.task_to_id = {"translate": TRANSLATE, "transcribe": TRANSCRIBE}
    g.lang_to_id = {f"<|{code}|>": START + 1 + i for i, code in enumerate(list(LANGUAGES)[:99])}
    g.begin_suppress_tokens, g.forced_decoder_ids, g.prev_sot_token_id = FIRST, None, 50361
    g.decoder_start_token_id, g.eos_token_id, g.pad_token_id, g.max_length = START, END, END, None

    samples = recording().astype(np.float64) / 32768
    padded = np.concatenate([samples, np.zeros(30 * RATE)])
    mel = WhisperFeatureExtractor(feature_size=80)(
        padded, sampling_rate=RATE, padding=False, truncation=False, return_tensors="np"
    ).input_features[0]
    content = mel.shape[1] - FRAMES

    def windows(case: dict, kind) -> tuple:
        model.to(kind)
        found, seek, pieces, language = [], 0, [], case["language"]
        while seek < content:
            x = torch.from_numpy(mel[:, seek : seek + FRAMES])[None].to(kind)
            if language is None:
                language = list(LANGUAGES)[model.detect_language(x).item() - START - 1]
            # Times are never chosen where none are wanted.
            g.suppress_tokens = SUPPRESSED + ([] if case["timestamps"] else list(range(TIME, 51865)))
            prompt = [START, g.lang_to_id[f"<|{language}|>"], TRANSLATE if case["translate"] else TRANSCRIBE]
            times = [WhisperTimeStampLogitsProcessor(g, begin_index=len(prompt))] if case["timestamps"] else []
            prompt += [] if case["timestamps"] else [PLAIN]
            # Whisper's own `generate` goes on through the window from time to time; this is one pass, as OpenAI's is.
            out = GenerationMixin.generate(
                model, x, decoder_input_ids=torch.tensor([prompt]), logits_processor=LogitsProcessorList(times),
                max_new_tokens=224, do_sample=False, num_beams=1,
            )
            ids = out[0].tolist()
            assert ids[: len(prompt)] == prompt
            ids = ids[len(prompt) :]
            if END in ids:
                ids = ids[: ids.index(END)]
            found.append({"seek": seek, "ids": ids})
            more, step = split(ids, seek, min(FRAMES, content - seek))
            pieces += more
            seek += step
        return found, pieces, language

    cases = {}
    with torch.no_grad():
        for name, case in CASES.items():
            found, pieces, language = windows(case, torch.float64)
            # Rounding decides nothing here.
            assert windows(case, torch.float32)[0] == found, name
            cases[name] = case | {
                "found_language": language, "windows": found,
                "segments": [{"start": a, "end": b, "ids": ids} for a, b, ids in pieces if ids],
            }
            print(name, language, [len(w["ids"]) for w in found], len(pieces), json.dumps(found)[:300])
    write_golden("tiny_whisper.json", "tiny_whisper.py", {
        "by": f"transformers {transformers.__version__}, WhisperForConditionalGeneration, greedy `generate` with Whisper's logits processors, in float64; float32 gives the same ids",
        "config": {"suppress_tokens": SUPPRESSED, "begin_suppress_tokens": FIRST},
        "seconds": SECONDS,
        "shapes": shapes,
        "cases": cases,
    })


if __name__ == "__main__":
    main()

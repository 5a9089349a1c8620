"""Whisper tiny.en in faster-whisper (CTranslate2): a whole transcription, beam 1, from samples to text, of 4 s and of 60 s of speech."""

import argparse
import wave

import faster_whisper
import numpy as np
from faster_whisper import WhisperModel

from common import THREADS, fetch, measure, report

RATE = 16000


def sentence() -> np.ndarray:
    with wave.open(str(fetch("arctic_a0007.wav"))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def repeated(seconds: int, pause: float = 1.0) -> np.ndarray:
    """The sentence and a pause of silence, again and again, cut at `seconds`."""
    one = np.concatenate([sentence(), np.zeros(int(pause * RATE), np.float32)])
    return np.tile(one, -(-seconds * RATE // len(one)))[: seconds * RATE]


def load(compute_type: str) -> WhisperModel:
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        fetch(f"whisper/{name}")
    folder = fetch("whisper/model.bin").parent
    return WhisperModel(str(folder), device="cpu", compute_type=compute_type, cpu_threads=THREADS, local_files_only=True)


def transcribe(model: WhisperModel, audio: np.ndarray, **options) -> list:
    return list(model.transcribe(audio, language="en", beam_size=1, temperature=0.0, **options)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    models = {kind: load(kind) for kind in ("float32", "int8")}
    long = repeated(60)
    for shape, audio in (("arctic_a0007 (4 s)", sentence()), ("60 s", long)):
        cases = {kind: (lambda model=model: transcribe(model, audio)) for kind, model in models.items()}
        for kind, times in measure(cases, args.rounds).items():
            segments = transcribe(models[kind], audio)
            tokens = sum(len(s.tokens) for s in segments)
            report(f"faster-whisper {faster_whisper.__version__} {kind}", "Whisper tiny.en", shape, times, segments=len(segments), ids=tokens)


if __name__ == "__main__":
    main()

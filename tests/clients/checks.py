"""What the Python clients' scripts share: a list of checks, a receiver of webhooks, and where the server is."""

import asyncio
import faulthandler
import http.server
import inspect
import json
import os
import queue
import sys
import threading
import traceback
import urllib.request

TOLD = json.loads(os.environ["MAQUETTE_TEST"])
URL = TOLD["url"]
TOKEN = TOLD["token"]
VERSION = TOLD["versions"]
"""The id of each model's version, by the model's name."""

TEXT = "Zwölf  Boxkämpfer\njagen\n\nViktor über den großen 🦊 Teich "
"""Newlines, a double space, letters beyond ASCII and beyond 16 bits."""
WORDS = ["Zwölf ", " ", "Boxkämpfer\njagen\n\nViktor ", "über ", "den ", "großen ", "🦊 ", "Teich "]
"""What the model `words` makes of it."""

CHECKS = []


def check(*modes):
    """Registers a check for servers of these modes: `http`, `https`, `full`, `stumbling`."""

    def register(function):
        CHECKS.append((modes, function))
        return function

    return register


def main():
    """Runs the checks of a mode: a line each, and why it failed."""
    mode, failed = sys.argv[1], 0
    # What hangs says where.
    faulthandler.dump_traceback_later(300, exit=True)
    for modes, function in CHECKS:
        if mode not in modes:
            continue
        try:
            result = function()
            if inspect.iscoroutine(result):
                asyncio.run(result)
            print(f"ok {function.__name__}", flush=True)
        except BaseException:
            failed += 1
            print(f"FAILED {function.__name__}\n{traceback.format_exc()}", flush=True)
    sys.exit(1 if failed else 0)


def raises(kind, function, *args, **kwargs):
    """The error of this kind that the call raises."""
    try:
        result = function(*args, **kwargs)
    except kind as error:
        return error
    raise AssertionError(f"{result!r} came instead of an error")


def spoken(iterator):
    """An iterator's items as a list."""
    return [str(item) for item in iterator]


def stumble(times=0, **plan):
    """Makes the proxy in front of the server fail so often; how often it has failed since the last time. See stumbling_proxy.py."""
    body = json.dumps({"times": times, **plan}).encode()
    with urllib.request.urlopen(f"{URL}/stumble", data=body) as reply:
        return json.load(reply)["stumbled"]


class Receiver:
    """A small HTTP server that takes webhooks: (headers, body) of each in `got`."""

    def __enter__(self):
        got = self.got = queue.Queue()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                got.put((dict(self.headers.items()), body.decode()))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def last(self):
        """The webhook that says how it ended."""
        while True:
            headers, body = self.got.get(timeout=60)
            if json.loads(body)["completed_at"]:
                return headers, body

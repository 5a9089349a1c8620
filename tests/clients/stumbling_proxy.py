"""A proxy that now and then does not get through, as one does while servers are replaced: it answers some requests itself, or loses replies.

Prints where it listens, reads the server's port from its standard input, ends with it. `POST /stumble` with the body
`{"method": "GET", "status": 503, "times": 2, "retry_after": "1", "lose": false}` makes the next requests of that method fail so often;
`lose` lets the server do what is asked first. The reply says how often it has stumbled since the last time.
"""

import http.client
import http.server
import json
import sys
import threading

ANSWERED_HERE = {"transfer-encoding", "connection", "keep-alive"}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    plan = {"times": 0}
    stumbled = 0
    lock = threading.Lock()
    port = None

    def pass_on(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/stumble":
            with Handler.lock:
                told = {"stumbled": Handler.stumbled}
                Handler.plan, Handler.stumbled = json.loads(body), 0
            return self.reply(200, {"content-type": "application/json"}, json.dumps(told).encode())
        with Handler.lock:
            plan = Handler.plan
            stumbles = plan["times"] > 0 and plan["method"] == self.command
            if stumbles:
                plan["times"] -= 1
                Handler.stumbled += 1
        if not stumbles or plan.get("lose"):
            there = http.client.HTTPConnection("127.0.0.1", Handler.port, timeout=120)
            there.request(self.command, self.path, body, dict(self.headers.items()))
            answer = there.getresponse()
            status, headers, content = answer.status, dict(answer.getheaders()), answer.read()
            there.close()
        if stumbles:
            headers = {"retry-after": plan["retry_after"]} if plan.get("retry_after") else {}
            status, content = plan["status"], b"<html>no server could be reached</html>"
            headers["content-type"] = "text/html"
        self.reply(status, headers, content)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = pass_on

    def reply(self, status, headers, content):
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ANSWERED_HERE | {"content-length"}:
                self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *where):
        # Clients go away when they please.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*where)


server = Server(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
Handler.port = int(sys.stdin.readline())
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()

"""A web server on this machine that sends parts of files, and can be slow, wrong, overloaded or break off."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Fault = Callable[["Request"], str | None]
"""`503`, `cut` in the middle, `wrong` bytes, `whole` in spite of a range, `slow`, the URL of a redirect, or None."""

SLOW_BYTES_PER_S = 20_000


@dataclass(frozen=True)
class Request:
    """`number`: of the requests for this file, from 1. `token`: its Authorization."""

    name: str
    start: int
    number: int
    token: str | None


@dataclass
class Served:
    """The requests so far. `fault`: what goes wrong with a request."""

    folder: Path
    url: str = ""
    fault: Fault = lambda request: None
    requests: list[Request] = field(default_factory=list)

    def count(self) -> Counter[str]:
        return Counter(request.name for request in self.requests)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    served: Served
    lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        served, name = self.server.served, Path(self.path.partition("?")[0]).name
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, end = (int(found[1]), int(found[2]) + 1) if found else (0, 1 << 40)
        with self.server.lock:
            request = Request(name, start, served.count()[name] + 1, self.headers.get("Authorization"))
            served.requests.append(request)
        fault = served.fault(request)
        path = served.folder / name
        if fault == "503" or fault == "403" or not path.is_file():
            self.send_error(int(fault) if fault else 404)
        elif fault is not None and fault.startswith("http"):
            self.send_response(302)
            self.send_header("Location", fault)
            self.end_headers()
        else:
            content = path.read_bytes()
            self._send(fault, content if fault == "whole" else content[start:end], len(content))

    def _send(self, fault: str | None, part: bytes, whole_bytes: int) -> None:
        self.send_response(200 if len(part) == whole_bytes else 206)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if fault == "cut":
            part = part[: len(part) // 2]
        elif fault == "wrong":
            part = part[:-1] + bytes([part[-1] ^ 1])
        pieces = [part] if fault != "slow" else [part[i : i + 200] for i in range(0, len(part), 200)]
        try:
            for piece in pieces:
                self.wfile.write(piece)
                if fault == "slow":
                    time.sleep(len(piece) / SLOW_BYTES_PER_S)
        except OSError:
            pass  # the client has been killed

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve(folder: Path, port: int = 0) -> Iterator[Served]:
    with _Server(("127.0.0.1", port), _Handler) as server:
        server.served = Served(folder, f"http://127.0.0.1:{server.server_port}/shards")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.served
        finally:
            server.shutdown()
            thread.join()

"""A server on this machine with files and a stream of pictures, for the readers of addresses."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np


@dataclass
class Site:
    """What a server serves; `address` is its root."""

    folder: Path
    address: str = ""
    rate: float = 50.0  # pictures per second of /live
    length: int = 10_000  # pictures, after which /live ends
    trickle: float = 0.0  # seconds between the bytes of files
    overstated: int = 0  # bytes that files are said to have too many of
    types: dict[str, str] = field(default_factory=dict)
    headers: list[dict[str, str]] = field(default_factory=list)  # of the requests


def picture(number: int) -> bytes:
    image = np.full((48, 64, 3), number % 200, np.uint8)
    return bytes(cv2.imencode(".jpg", image)[1].tobytes())


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Site]:
    """Serve a folder, and at /live pictures without end (MJPEG)."""
    site = Site(folder)

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            site.headers.append(dict(self.headers))
            with contextlib.suppress(OSError):  # who asked went away
                self.live() if self.path.startswith("/live") else self.file()

        def live(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
            self.end_headers()
            for number in range(site.length):
                data = picture(number)
                head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")
                time.sleep(1 / site.rate)

        def file(self) -> None:
            path = site.folder / unquote(self.path.partition("?")[0]).lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data) + site.overstated))
            self.send_header("Content-Type", site.types.get(path.name, "application/octet-stream"))
            self.end_headers()
            pieces = [data] if not site.trickle else [data[at : at + 1] for at in range(len(data))]
            for piece in pieces:
                self.wfile.write(piece)
                time.sleep(site.trickle)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()

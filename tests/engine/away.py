"""What the tests of loggers share: servers that do not answer, and a logger of a user's own."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager

OWN = '''
from detframe.engine.loggers.base import RunLogger
from detframe.registry import LOGGERS


@LOGGERS.register("lines")
class Lines(RunLogger):
    """Writes a line for everything it hears of."""

    def __init__(self, run):
        self.path = run.folder / "lines.txt"
        self.write(f"run {run.id} {run.name} {run.config['SOLVER.MAX_ITER']}")

    def write(self, line):
        with open(self.path, "a") as file:
            file.write(line + "\\n")

    def row(self, iteration, values):
        self.write(f"row {iteration} {'loss' in values}")

    def picture(self, iteration, name, path):
        self.write(f"picture {iteration} {name} {path.is_file()}")

    def finish(self, status):
        self.write(status)
'''


@contextmanager
def silent_server():
    """The port of a server on the loopback that accepts connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def accept():
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        for connection in held:
            connection.close()


def closed_port():
    """A port on the loopback that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]

"""What the tests of loggers share: servers that do not answer, a logger of a user's own, and what wandb has written."""

from __future__ import annotations

import json
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

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)  # wakes the thread, which would else take one more connection and leave it
        thread.join(10)
        for connection in held:
            connection.close()


def closed_port():
    """A port on the loopback that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def records(path):
    """The records of a file of wandb: protocol buffers, in LevelDB's log format behind a header of 7 bytes.

    Blocks of 32 KiB hold pieces, each behind a checksum (4 bytes), its length (2) and its kind (1): a whole record, or
    the first, a middle or the last part of one.
    """
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:  # the rest of the block is filled up
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole = (b"" if kind in (1, 2) else whole) + data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(whole)


def history(folder):
    """All that is in the offline runs of a folder, in order: ids, config, rows, files."""
    ids, config, rows, files = set(), {}, [], set()
    for record in (r for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")) for r in records(path)):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            ids.add(record.run.run_id)
            config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            items = {(item.key or "/".join(item.nested_key)): item.value_json for item in record.history.item}
            rows.append({key: json.loads(value) for key, value in items.items()})
        elif kind == "files":
            files |= {file.path for file in record.files.files}
    return ids, config, rows, files

"""OUTPUT_DIR on an object store: a second run there, and a store that is missing, refuses, or is away."""

import json
import time

import pytest

from detframe.checkpoint import Checkpoint
from detframe.cli.errors import guard
from detframe.engine import output_place, remote_lock, train
from detframe.engine.output_place import local_folder
from detframe.errors import InUseError
from detframe.storage.folders import StoreFolder
from tests.engine.fakes import At
from tests.engine.remote import SHORT
from tests.storage.conftest import EVERY_BUCKET


# ---------------------------------------------------------------------------------------------- two runs
def test_a_second_run_is_refused_wherever_it_is(remote, server, monkeypatch):
    seen = []

    def second(trainer):
        with pytest.raises(
            InUseError, match=rf"OUTPUT_DIR {server.address}/run is in use by another run \(process \d+ on host"
        ):
            train(remote("run"), resume=True)
        with monkeypatch.context() as patch:  # as on another machine, where no process can be looked for
            patch.setattr(remote_lock.socket, "gethostname", lambda: "elsewhere")
            patch.setattr(output_place, "local_folder", lambda store: local_folder(store).with_name("elsewhere"))
            with pytest.raises(InUseError, match="in use by another run"):
                train(remote("run"))
        seen.append(True)

    train(remote("run", "DATASETS.TEST", ()), callbacks=[At(2, second)])
    assert seen == [True]


def test_a_dead_run_elsewhere_does_not_keep_the_folder(remote, server):
    record = {"host": "elsewhere", "pid": 1, "since": "then", "token": "x", "beat": 3, "ended": False}
    server.put("run/.run.json", json.dumps(record).encode())
    train(remote("run", "DATASETS.TEST", ()), resume=True)
    assert "was in use by process 1 on host elsewhere" in server.content("run/log.txt").decode()


def test_a_run_that_was_taken_over_ends(remote, server):
    def take(trainer):
        record = {"host": "elsewhere", "pid": 1, "since": "now", "token": "other", "beat": 1, "ended": False}
        server.put("run/.run.json", json.dumps(record).encode())
        time.sleep(0.6)

    with pytest.raises(InUseError, match=r"was taken over by another run .process 1 on host elsewhere"):
        train(remote("run", "DATASETS.TEST", ()), callbacks=[At(2, take)])


# ---------------------------------------------------------------------------------------------- what goes wrong
@pytest.fixture
def said(tiny, capsys):
    """What a training into an address says that cannot begin."""

    def train_into(address):
        assert guard(lambda: train(tiny(*SHORT, "OUTPUT_DIR", address)) and 0) == 2
        return capsys.readouterr().err

    return train_into


@EVERY_BUCKET
def test_a_missing_bucket_is_found_at_the_start(said, remote, server):
    text = said(f"{server.scheme}://absent/run")
    assert f"OUTPUT_DIR {server.scheme}://absent/run cannot be written" in text
    assert f"the bucket {server.scheme}://absent does not exist" in text
    assert server.names() == set()


def test_wrong_credentials_are_found_at_the_start(said, remote, server, monkeypatch):
    monkeypatch.setattr(StoreFolder, "write", refused)
    text = said(f"{server.address}/run")
    assert "access was refused (HTTP 403, InvalidAccessKeyId)" in text and "AWS_ACCESS_KEY_ID" in text
    assert server.names() == set()


def refused(*args):
    from botocore.exceptions import ClientError

    answer = {"Error": {"Code": "InvalidAccessKeyId"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    raise PermissionError(13, "refused") from ClientError(answer, "PutObject")


@EVERY_BUCKET
def test_a_bucket_that_is_down_stops_nothing_and_is_caught_up_with(remote, server, cable):
    log_here = local_folder(StoreFolder(f"{server.address}/run")) / "log.txt"

    def back(trainer):
        deadline = time.monotonic() + 30
        while "takes nothing at the moment" not in log_here.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        cable.mend()

    hooks = [At(1, lambda _: cable.cut()), At(3, back)]
    hooks[1].name = "up"
    train(remote("run", "DATASETS.TEST", ()), callbacks=hooks)
    log = server.content("run/log.txt").decode()
    assert log.count("takes nothing at the moment") == 1 and "answers again, and has what was missing" in log
    assert server.content("run/last_checkpoint") == b"model_0000004.pth\n"


def test_a_bucket_that_stays_down_is_an_error_that_names_the_local_folder(remote, server, cable, monkeypatch, capsys):
    monkeypatch.setattr(output_place, "PATIENCE_SECONDS", 0.5)
    cfg = remote("run", "DATASETS.TEST", ())
    assert guard(lambda: train(cfg, callbacks=[At(3, lambda _: cable.cut())]) and 0) == 2
    folder = local_folder(StoreFolder(f"{server.address}/run"))
    text = capsys.readouterr().err
    assert f"could not be sent to {server.address}/run" in text and f"all of it is in {folder}" in text
    assert "Traceback" not in text and Checkpoint.read(folder / "model_final.pth").iteration == 4
    cable.mend()
    train(cfg, resume=True)  # there is nothing to train, but to send
    assert server.content("run/model_final.pth") == (folder / "model_final.pth").read_bytes()
    assert server.content("run/last_checkpoint") == b"model_0000004.pth\n"


def test_what_a_dead_machine_did_not_send_is_kept(remote, server, tiny):
    train(remote("run", "DATASETS.TEST", ()))
    folder = local_folder(StoreFolder(f"{server.address}/run"))
    (folder / "model_0000003.pth").write_bytes(b"never sent")
    train(remote("run", "DATASETS.TEST", ()))
    (kept,) = folder.parent.glob("run.unsent-*")
    assert (kept / "model_0000003.pth").read_bytes() == b"never sent"
    assert f"they are now in {kept}" in server.content("run/log.txt").decode()

"""OUTPUT_DIR on an object store: a real server of S3's protocol on the loopback, and fsspec's memory."""

import errno
import json
import shutil
import threading
import time

import pytest
import torch

from detframe.checkpoint import Checkpoint
from detframe.cli import report
from detframe.cli.errors import guard
from detframe.engine import evaluate, output_place, remote_lock, train
from detframe.engine.output_place import local_folder, weights_in
from detframe.errors import FileAccessError, InUseError, UserError
from detframe.inference import Detector
from detframe.storage import mirror, settings, stores
from detframe.storage.folders import StoreFolder
from tests.bucket_server import KEYS, cable_to, make_bucket, s3_server
from tests.engine.fakes import At

SHORT = ("SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.STEPS", (3,), "SOLVER.LOG_PERIOD", 1)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Looks and beats that tests need not wait for."""
    monkeypatch.setattr(mirror, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(remote_lock, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(stores, "CALL_SECONDS", 5.0)
    monkeypatch.setattr(remote_lock, "_SETTLE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def endpoint():
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    with s3_server() as found:
        yield found


class Store:
    """A bucket `runs` of its own, behind a cable that can be cut."""

    def __init__(self, bucket, cable):
        self.client, self.name = bucket.client, bucket.name
        self.down, self.up = cable.cut, cable.mend

    def names(self, below=""):
        found = self.client.list_objects_v2(Bucket=self.name, Prefix=below).get("Contents", [])
        return {entry["Key"].removeprefix(below) for entry in found}

    def content(self, name):
        return self.client.get_object(Bucket=self.name, Key=name)["Body"].read()

    def put(self, name, data):
        self.client.put_object(Bucket=self.name, Key=name, Body=data)


@pytest.fixture
def server(endpoint, monkeypatch):
    """The bucket, empty; the environment leads to it."""
    with cable_to(endpoint) as cable:
        for key, value in {**KEYS, "AWS_ENDPOINT_URL": cable.endpoint}.items():
            monkeypatch.setenv(key, value)
        monkeypatch.setattr(settings, "answered", set())
        monkeypatch.setattr("detframe.storage.retrying.answered", settings.answered)
        store = Store(make_bucket(endpoint, "runs"), cable)
        yield store
        for name in store.names():
            store.client.delete_object(Bucket="runs", Key=name)
        stores._clients.clear()


@pytest.fixture
def remote(tiny, server, tmp_path, monkeypatch):
    """A config of a short run into a folder of the bucket: remote("run", "SOLVER.MAX_ITER", 8)."""
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))

    def make(name, *words):
        return tiny(*SHORT, *words, "OUTPUT_DIR", f"s3://runs/{name}")

    return make


def forget(name):
    """What a machine that is gone had of a run."""
    shutil.rmtree(local_folder(StoreFolder(f"s3://runs/{name}")).parent)


def fail(trainer):
    raise ArithmeticError("the machine is gone")


def final(server, name, file="model_final.pth"):
    import io

    return torch.load(io.BytesIO(server.content(f"{name}/{file}")), weights_only=True)


def test_a_run_its_evaluation_its_report_and_its_detector(remote, server, tmp_path):
    train(remote("run", "TEST.REPORT", True))
    names = server.names("run/")
    assert {"config.yaml", "log.txt", "metrics.jsonl", "last_checkpoint", "report.html", ".run.json"} <= names
    assert {name for name in names if name.startswith("model_")} == {
        *("model_0000002.pth", "model_0000004.pth", "model_best.pth", "model_final.pth"),
    }
    assert any(name.startswith("tensorboard/") for name in names)
    assert server.content("run/last_checkpoint") == b"model_0000004.pth\n"
    assert weights_in("s3://runs/run/") == "s3://runs/run/model_best.pth"
    forget("run")
    metrics = evaluate(remote("run", "MODEL.WEIGHTS", "s3://runs/run/model_final.pth"))
    assert json.loads(server.content("run/evaluation.json"))["metrics"].keys() == metrics.keys()
    assert b"training data" in server.content("run/log.txt")
    server.client.delete_object(Bucket="runs", Key="run/report.html")
    assert report.main(["s3://runs/run"]) == 0
    assert b"<html" in server.content("run/report.html")
    detector = Detector.load("s3://runs/run/model_best.pth", "cpu")
    assert detector.meta["iteration"] == 4 and len(detector.meta["class_names"]) == 5


def test_a_bare_machine_goes_on_bit_for_bit(remote, server, tiny, tmp_path):
    train(tiny(*SHORT))
    with pytest.raises(ArithmeticError):
        train(remote("run"), callbacks=[At(3, fail)])
    forget("run")
    train(remote("run"), resume=True)
    whole, other = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True), final(server, "run")
    assert all(torch.equal(value, other["model"][key]) for key, value in whole["model"].items())
    rows = [json.loads(line) for line in server.content("run/metrics.jsonl").splitlines()]
    assert [row["iteration"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert b"going on from" in server.content("run/log.txt") and b"the machine is gone" in server.content("run/log.txt")


def test_keep_last_holds_for_checkpoints_of_machines_that_are_gone(remote, server):
    words = ("SOLVER.MAX_ITER", 8, "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.KEEP_LAST", 2, "DATASETS.TEST", ())
    with pytest.raises(ArithmeticError):
        train(remote("run", *words), callbacks=[At(4, fail)])
    forget("run")
    train(remote("run", *words), resume=True)
    kept = {name for name in server.names("run/") if name.startswith("model_0")}
    assert kept == {"model_0000007.pth", "model_0000008.pth"}


def test_a_cut_object_is_passed_over(remote, server, caplog):
    train(remote("run", "DATASETS.TEST", ()))
    whole = server.content("run/model_0000004.pth")
    server.put("run/model_0000004.pth", whole[: len(whole) // 2])
    forget("run")
    train(remote("run", "DATASETS.TEST", ()), resume=True)
    log = server.content("run/log.txt").decode()
    assert (
        "model_0000004.pth is half-written" in log and "going on from the newest whole checkpoint, model_0000002" in log
    )
    assert len(server.content("run/model_0000004.pth")) == len(whole)


HALF = {
    "the pointer came, its checkpoint did not": ("model_0000004.pth", None),
    "bytes of the checkpoint are others": ("model_0000004.pth", lambda data: data[:-400] + b"?" * 300 + data[-100:]),
    "the checkpoint is empty": ("model_0000004.pth", lambda data: b""),
    "the pointer is cut": ("last_checkpoint", lambda data: data[:8]),
    "the pointer is empty": ("last_checkpoint", lambda data: b""),
    "the lock is cut": (".run.json", lambda data: data[:20]),
    "the config is cut": ("config.yaml", lambda data: data[: len(data) // 2]),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", HALF)
def test_what_was_uploaded_by_half_stops_no_run(remote, server, what):
    """A bare machine goes on from what is whole there, and what it leaves is as if nothing had been."""
    name, damage = HALF[what]
    train(remote("run", "DATASETS.TEST", ()))
    model, rows = final(server, "run")["model"], server.content("run/metrics.jsonl").splitlines()
    if damage is None:
        server.client.delete_object(Bucket="runs", Key=f"run/{name}")
    else:
        server.put(f"run/{name}", damage(server.content(f"run/{name}")))
    forget("run")
    train(remote("run", "DATASETS.TEST", ()), resume=True)
    again = final(server, "run")["model"]
    assert all(torch.equal(value, again[key]) for key, value in model.items())
    steps = [json.loads(row)["iteration"] for row in server.content("run/metrics.jsonl").splitlines()]
    assert steps == [json.loads(row)["iteration"] for row in rows]
    assert Checkpoint.of(final(server, "run", "model_0000004.pth"), what).iteration == 4


def test_an_upload_that_was_broken_off_leaves_nothing(remote, server, monkeypatch):
    """A part of a large object that was sent is not an object."""
    upload = server.client.create_multipart_upload(Bucket="runs", Key="run/model_0000002.pth")
    server.client.upload_part(
        Bucket="runs", Key="run/model_0000002.pth", PartNumber=1, UploadId=upload["UploadId"], Body=b"x" * 2**20
    )
    assert server.names() == set()
    train(remote("run", "DATASETS.TEST", ()), resume=True)
    assert "starts from the beginning" in server.content("run/log.txt").decode()


def test_an_older_run_is_moved_away(remote, server):
    train(remote("run", "DATASETS.TEST", ()))
    before = server.content("run/model_final.pth")
    train(remote("run", "DATASETS.TEST", (), "SEED", 3))
    moved = {name for name in server.names("run/") if name.startswith("previous_")}
    (place,) = {name.partition("/")[0] for name in moved}
    assert {f"{place}/model_final.pth", f"{place}/last_checkpoint", f"{place}/metrics.jsonl"} <= moved
    assert server.content(f"run/{place}/model_final.pth") == before != server.content("run/model_final.pth")
    assert f"held an older run, which is now in s3://runs/run/{place}" in server.content("run/log.txt").decode()


def test_a_report_reads_before_it_writes(remote, server, tmp_path, capsys, monkeypatch):
    assert report.main(["s3://runs/nothing"]) == 2
    said = capsys.readouterr().err
    assert "error: s3://runs/nothing holds no config.yaml, so it is not the OUTPUT_DIR of a run" in said
    assert report.main(["s3://nobodys/run"]) == 2
    said = capsys.readouterr().err
    assert "error: s3://nobodys/run: the bucket s3://nobodys does not exist" in said and "written" not in said
    train(remote("run"))
    monkeypatch.setattr(StoreFolder, "write", None)  # a bucket that is only read
    monkeypatch.setattr(StoreFolder, "put", None)
    assert report.main(["s3://runs/run", "--output", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").is_file()


# ---------------------------------------------------------------------------------------------- two runs
def test_a_second_run_is_refused_wherever_it_is(remote, server, monkeypatch):
    seen = []

    def second(trainer):
        with pytest.raises(
            InUseError, match=r"OUTPUT_DIR s3://runs/run is in use by another run \(process \d+ on host"
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
def test_a_missing_bucket_and_wrong_credentials_are_found_at_the_start(remote, server, tiny, monkeypatch, capsys):
    def said(address):
        assert guard(lambda: train(tiny(*SHORT, "OUTPUT_DIR", address)) and 0) == 2
        return capsys.readouterr().err

    text = said("s3://absent/run")
    assert "OUTPUT_DIR s3://absent/run cannot be written" in text and "the bucket s3://absent does not exist" in text
    monkeypatch.setattr(StoreFolder, "write", refused)
    text = said("s3://runs/run")
    assert "access was refused (HTTP 403, InvalidAccessKeyId)" in text and "AWS_ACCESS_KEY_ID" in text
    assert server.names() == set()


def refused(*args):
    from botocore.exceptions import ClientError

    answer = {"Error": {"Code": "InvalidAccessKeyId"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    raise PermissionError(13, "refused") from ClientError(answer, "PutObject")


def test_a_bucket_that_is_down_stops_nothing_and_is_caught_up_with(remote, server):
    log_here = local_folder(StoreFolder("s3://runs/run")) / "log.txt"

    def back(trainer):
        deadline = time.monotonic() + 30
        while "takes nothing at the moment" not in log_here.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        server.up()

    hooks = [At(1, lambda _: server.down()), At(3, back)]
    hooks[1].name = "up"
    train(remote("run", "DATASETS.TEST", ()), callbacks=hooks)
    log = server.content("run/log.txt").decode()
    assert log.count("takes nothing at the moment") == 1 and "answers again, and has what was missing" in log
    assert server.content("run/last_checkpoint") == b"model_0000004.pth\n"


def test_a_bucket_that_stays_down_is_an_error_that_names_the_local_folder(remote, server, monkeypatch, capsys):
    monkeypatch.setattr(output_place, "PATIENCE_SECONDS", 0.5)
    cfg = remote("run", "DATASETS.TEST", ())
    assert guard(lambda: train(cfg, callbacks=[At(3, lambda _: server.down())]) and 0) == 2
    folder = local_folder(StoreFolder("s3://runs/run"))
    text = capsys.readouterr().err
    assert "could not be sent to s3://runs/run" in text and f"all of it is in {folder}" in text
    assert "Traceback" not in text and Checkpoint.read(folder / "model_final.pth").iteration == 4
    server.up()
    train(cfg, resume=True)  # there is nothing to train, but to send
    assert server.content("run/model_final.pth") == (folder / "model_final.pth").read_bytes()
    assert server.content("run/last_checkpoint") == b"model_0000004.pth\n"


def test_what_a_dead_machine_did_not_send_is_kept(remote, server, tiny):
    train(remote("run", "DATASETS.TEST", ()))
    folder = local_folder(StoreFolder("s3://runs/run"))
    (folder / "model_0000003.pth").write_bytes(b"never sent")
    train(remote("run", "DATASETS.TEST", ()))
    (kept,) = folder.parent.glob("run.unsent-*")
    assert (kept / "model_0000003.pth").read_bytes() == b"never sent"
    assert f"they are now in {kept}" in server.content("run/log.txt").decode()


# ---------------------------------------------------------------------------------------------- the mirror alone
@pytest.fixture
def in_memory(tmp_path):
    """A mirror of a folder into fsspec's memory."""
    import fsspec

    store = StoreFolder(f"memory://{tmp_path.name}")
    yield mirror.Mirror(tmp_path, store, ("last_checkpoint",))
    fsspec.filesystem("memory").store.clear()


def test_a_pointer_comes_after_what_it_names_and_goes_before_it(in_memory, tmp_path, monkeypatch):
    order = []
    for name in ("put", "write", "remove"):
        do = getattr(StoreFolder, name)
        monkeypatch.setattr(
            StoreFolder,
            name,
            lambda self, *a, do=do, name=name: (
                order.append((name, str(a[-1] if name == "put" else a[0]))),
                do(self, *a),
            ),
        )
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    (tmp_path / "model_0000002.pth").write_bytes(b"x" * 100)
    in_memory.finish(1)
    (tmp_path / "model_0000004.pth").write_bytes(b"x" * 100)
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    (tmp_path / "model_0000002.pth").unlink()
    in_memory.finish(1)
    assert order == [
        *(("put", "model_0000002.pth"), ("write", "last_checkpoint")),
        *(("put", "model_0000004.pth"), ("write", "last_checkpoint"), ("remove", "model_0000002.pth")),
    ]
    assert in_memory.store.names() == {"model_0000004.pth", "last_checkpoint"}


def test_an_empty_pointer_names_nothing_and_keeps_nobody_waiting(in_memory, tmp_path, monkeypatch):
    rounds = []
    monkeypatch.setattr(in_memory, "check", lambda: rounds.append(1) if len(rounds) < 5 else pytest.fail("for ever"))
    (tmp_path / "last_checkpoint").touch()
    (tmp_path / "model_0000002.pth").write_bytes(b"x")
    in_memory.finish(1)
    assert in_memory.store.names() == {"model_0000002.pth"}


def test_temporary_files_and_what_was_sent_already_are_left_out(in_memory, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"a")
    (tmp_path / ".model.tmp").write_bytes(b"half")
    in_memory.finish(1)
    assert in_memory.store.names() == {"images/a.png"}
    monkeypatch.setattr(StoreFolder, "put", lambda *a: (_ for _ in ()).throw(AssertionError("again")))
    mirror.Mirror(tmp_path, in_memory.store).finish(1)


def test_the_thread_sends_while_files_come(in_memory, tmp_path):
    in_memory.start()
    (tmp_path / "a.txt").write_text("a")
    deadline = time.monotonic() + 10
    while in_memory.store.names() != {"a.txt"} and time.monotonic() < deadline:
        time.sleep(0.02)
    in_memory.stop()
    assert in_memory.store.names() == {"a.txt"}
    assert not [thread for thread in threading.enumerate() if "mirror" in thread.name]


def test_a_refusal_at_the_end_is_told_in_words(in_memory, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.setattr(StoreFolder, "put", lambda *a: (_ for _ in ()).throw(ConnectionError("reset")))
    with pytest.raises(UserError, match=r"1 files of the run could not be sent to memory://.*all of it is in "):
        in_memory.finish(0.1)


def test_a_full_disk_here_is_not_laid_on_the_store(in_memory, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise FileAccessError("cannot write") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mirror, "write_text", full)
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
        in_memory.finish(0.1)
    assert in_memory.store.names() == {"a.txt", "b.txt"}
    assert "takes nothing" not in caplog.text
    assert caplog.text.count(f"cannot be noted in {tmp_path} (No space left on device)") == 1

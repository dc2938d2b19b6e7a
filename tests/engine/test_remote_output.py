"""OUTPUT_DIR on an object store, real servers on the loopback: what a run leaves there, and how it goes on."""

import json

import pytest
import torch

from detframe.checkpoint import Checkpoint
from detframe.cli import report
from detframe.engine import evaluate, train
from detframe.engine.output_place import weights_in
from detframe.inference import Detector
from detframe.storage.folders import StoreFolder
from tests.engine.fakes import At
from tests.engine.remote import SHORT, fail, final, forget
from tests.storage.conftest import EVERY_BUCKET


@EVERY_BUCKET
def test_a_run_its_evaluation_its_report_and_its_detector(remote, server, tmp_path):
    train(remote("run", "TEST.REPORT", True))
    names = server.names("run/")
    assert {"config.yaml", "log.txt", "metrics.jsonl", "last_checkpoint", "report.html", ".run.json"} <= names
    assert {name for name in names if name.startswith("model_")} == {
        *("model_0000002.pth", "model_0000004.pth", "model_best.pth", "model_final.pth"),
    }
    assert any(name.startswith("tensorboard/") for name in names)
    assert server.content("run/last_checkpoint") == b"model_0000004.pth\n"
    assert weights_in(f"{server.address}/run/") == f"{server.address}/run/model_best.pth"
    forget(server, "run")
    metrics = evaluate(remote("run", "MODEL.WEIGHTS", f"{server.address}/run/model_final.pth"))
    assert json.loads(server.content("run/evaluation.json"))["metrics"].keys() == metrics.keys()
    assert b"training data" in server.content("run/log.txt")
    server.remove("run/report.html")
    assert report.main([f"{server.address}/run"]) == 0
    assert b"<html" in server.content("run/report.html")
    detector = Detector.load(f"{server.address}/run/model_best.pth", "cpu")
    assert detector.meta["iteration"] == 4 and len(detector.meta["class_names"]) == 5


@EVERY_BUCKET
def test_a_bare_machine_goes_on_bit_for_bit(remote, server, tiny, tmp_path):
    train(tiny(*SHORT))
    with pytest.raises(ArithmeticError):
        train(remote("run"), callbacks=[At(3, fail)])
    forget(server, "run")
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
    forget(server, "run")
    train(remote("run", *words), resume=True)
    kept = {name for name in server.names("run/") if name.startswith("model_0")}
    assert kept == {"model_0000007.pth", "model_0000008.pth"}


def test_a_cut_object_is_passed_over(remote, server, caplog):
    train(remote("run", "DATASETS.TEST", ()))
    whole = server.content("run/model_0000004.pth")
    server.put("run/model_0000004.pth", whole[: len(whole) // 2])
    forget(server, "run")
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
        server.remove(f"run/{name}")
    else:
        server.put(f"run/{name}", damage(server.content(f"run/{name}")))
    forget(server, "run")
    train(remote("run", "DATASETS.TEST", ()), resume=True)
    again = final(server, "run")["model"]
    assert all(torch.equal(value, again[key]) for key, value in model.items())
    steps = [json.loads(row)["iteration"] for row in server.content("run/metrics.jsonl").splitlines()]
    assert steps == [json.loads(row)["iteration"] for row in rows]
    assert Checkpoint.of(final(server, "run", "model_0000004.pth"), what).iteration == 4


def test_an_upload_that_was_broken_off_leaves_nothing(remote, server, monkeypatch):
    """A part of a large object that was sent is not an object."""
    upload = server.client.create_multipart_upload(Bucket=server.name, Key="run/model_0000002.pth")
    server.client.upload_part(
        Bucket=server.name, Key="run/model_0000002.pth", PartNumber=1, UploadId=upload["UploadId"], Body=b"x" * 2**20
    )
    assert server.names() == set()
    train(remote("run", "DATASETS.TEST", ()), resume=True)
    assert "starts from the beginning" in server.content("run/log.txt").decode()


@EVERY_BUCKET
def test_an_older_run_is_moved_away(remote, server):
    train(remote("run", "DATASETS.TEST", ()))
    before = server.content("run/model_final.pth")
    train(remote("run", "DATASETS.TEST", (), "SEED", 3))
    moved = {name for name in server.names("run/") if name.startswith("previous_")}
    (place,) = {name.partition("/")[0] for name in moved}
    assert {f"{place}/model_final.pth", f"{place}/last_checkpoint", f"{place}/metrics.jsonl"} <= moved
    assert server.content(f"run/{place}/model_final.pth") == before != server.content("run/model_final.pth")
    assert f"held an older run, which is now in {server.address}/run/{place}" in server.content("run/log.txt").decode()


def test_a_report_reads_before_it_writes(remote, server, tmp_path, capsys, monkeypatch):
    assert report.main([f"{server.address}/nothing"]) == 2
    said = capsys.readouterr().err
    assert f"error: {server.address}/nothing holds no config.yaml, so it is not the OUTPUT_DIR of a run" in said
    assert report.main([f"{server.scheme}://nobodys/run"]) == 2
    said = capsys.readouterr().err
    assert f"error: {server.scheme}://nobodys/run: the bucket {server.scheme}://nobodys does not exist" in said
    assert "written" not in said
    train(remote("run"))
    monkeypatch.setattr(StoreFolder, "write", None)  # a bucket that is only read
    monkeypatch.setattr(StoreFolder, "put", None)
    assert report.main([f"{server.address}/run", "--output", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").is_file()

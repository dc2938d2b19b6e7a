"""The life of a run: starts that fail, two runs in a folder, evaluations that fail, what a dead process left."""

import json

import pytest
import torch

from detframe.checkpoint import Checkpoint
from detframe.cli.errors import user_message
from detframe.engine import evaluate, train
from detframe.engine.evaluating import TestSets
from detframe.engine.hooks import EvaluationHook
from detframe.engine.lock import locked
from detframe.engine.metrics_writer import MetricsWriter
from detframe.engine.output_dir import claimed, nothing_to_resume, older_runs
from detframe.engine.saving import BestHook, CheckpointHook
from detframe.engine.trainer import Hook, Trainer
from detframe.errors import InUseError, InvalidValueError
from tests.engine.fakes import last_state, make_checkpointer, make_config, make_data, make_trainer, weights
from tests.engine.written import checkpoints, load, rows

SHORT = ("SOLVER.MAX_ITER", 1, "DATASETS.TEST", ())


def everything(folder):
    """What lies below a folder: names and contents."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


# ---------------------------------------------------------------------------------------------- starts that fail
@pytest.fixture
def broken_picture(tmp_path):
    """A catalog with a data set whose only picture is none."""
    (tmp_path / "a.png").write_bytes(b"no picture")
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
        "categories": [{"id": 1, "name": "disc"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}],
    }
    (tmp_path / "a.json").write_text(json.dumps(coco))
    entry = f"broken: {{format: coco, images: {tmp_path}, annotations: {tmp_path}/a.json}}\n"
    (tmp_path / "catalog.yaml").write_text(entry)
    return ("DATASETS.CATALOG", str(tmp_path / "catalog.yaml"), "DATASETS.TRAIN", ("broken",), "DATASETS.TEST", ())


FAILING = {
    "data": ("DATASETS.TRAIN", ("misspelt",)),
    "test data": ("DATASETS.TEST", ("misspelt",)),
    "weights": ("MODEL.WEIGHTS", "absent.pth"),
    "model": ("MODEL.RESNETS.NORM", "FrozenBN"),
    "hooks": ("SOLVER.EARLY_STOP_PATIENCE", 2),
    "module": ("CUSTOM_IMPORTS", ("absent.py",)),
    "batch": ("SOLVER.ACCUMULATE_STEPS", 3),
}


@pytest.mark.parametrize("name", [*FAILING, "first batch"])
def test_a_start_that_fails_changes_nothing(tiny, tmp_path, broken_picture, name):
    words = broken_picture if name == "first batch" else FAILING[name]
    with pytest.raises((ValueError, KeyError, OSError)):
        train(tiny(*words))
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    for file in ("log.txt", "metrics.jsonl", "model_0000004.pth", "config.yaml"):
        (tmp_path / "out" / file).write_text("of an older run")
    before = everything(tmp_path / "out")
    with pytest.raises((ValueError, KeyError, OSError)) as caught:
        train(tiny(*words))
    assert everything(tmp_path / "out") == before
    assert name != "first batch" or "a.png" in str(caught.value)


def test_an_evaluation_that_fails_at_its_start_changes_nothing(tiny, tmp_path):
    with pytest.raises(OSError, match="absent"):
        evaluate(tiny("MODEL.WEIGHTS", str(tmp_path / "absent.pth")))
    assert not (tmp_path / "out").exists()


def test_what_was_said_during_the_start_is_in_the_log(tiny, tmp_path):
    train(tiny(*SHORT))
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.index("parameters") < log.index("global batch") < log.index("iter 1/1") or "global batch" in log
    assert "training data shapes_train" in log


def test_the_run_after_a_failed_start_goes_on(tiny, tmp_path):
    out = tmp_path / "out"
    train(tiny(*SHORT))
    with pytest.raises(KeyError):
        train(tiny(*SHORT, "DATASETS.TRAIN", ("misspelt",)))
    train(tiny("SOLVER.MAX_ITER", 2, "DATASETS.TEST", ()), resume=True)
    assert f"going on from {out / 'model_0000001.pth'} at iteration 1 of 2" in (out / "log.txt").read_text()


def test_resume_names_the_runs_that_were_set_aside(tmp_path):
    for name in ("previous_20260101-000000", "previous_20260101-000000-2", "previous_20251231-235959", "previous_x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_final.pth").write_text("")
    (tmp_path / "previous_20260102-000000").mkdir()  # without a checkpoint
    newest = tmp_path / "previous_20260101-000000-2"
    assert older_runs(tmp_path)[1] == newest
    text = nothing_to_resume(tmp_path)
    bare, second = tmp_path / "previous_20260102-000000", tmp_path / "previous_20260101-000000"
    assert f"Older runs lie in {bare} (without a checkpoint), {newest}, {second}, {tmp_path}/previous_2025" in text
    assert text.endswith(f"as OUTPUT_DIR {newest}")
    assert "Older" not in nothing_to_resume(tmp_path / "previous_x")


# ---------------------------------------------------------------------------------------------- two runs
def test_a_second_run_changes_nothing_and_an_evaluation_may_work_there(tiny, tmp_path):
    out = tmp_path / "out"
    train(tiny(*SHORT))
    with locked(out):
        before = everything(out)
        for resume in (False, True):
            with pytest.raises(InUseError, match=r"in use by another run \(process \d+ on host"):
                train(tiny(*SHORT), resume=resume)
        assert everything(out) == before
        evaluate(tiny("MODEL.WEIGHTS", str(out / "model_final.pth")))
        assert (out / "evaluation.json").is_file()
    train(tiny(*SHORT))
    assert len(older_runs(out)) == 1


def test_resume_sees_that_another_run_came_between(tmp_path):
    (tmp_path / "model_0000004.pth").write_text("new")
    with pytest.raises(InUseError, match="has written checkpoints"), claimed(tmp_path, True, {}):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["model_0000004.pth"]


def test_half_written_files_of_dead_processes_are_removed(tmp_path):
    for folder in (tmp_path, tmp_path / "images", tmp_path / "nonfinite"):
        folder.mkdir(exist_ok=True)
        (folder / ".model_0000004.pth.k3j4.tmp").write_text("half")
        (folder / "mine.tmp").write_text("whole")
    with claimed(tmp_path, False, {}) as notes:
        pass
    assert len(notes) == 4 and "which a process that died had not finished" in notes[0]
    assert [p.name for p in tmp_path.rglob("*.tmp")] == ["mine.tmp"] * 3


# ---------------------------------------------------------------------------------------------- evaluations that fail
class Failing:
    """Stands in for the evaluation: fails the first time, or always."""

    def __init__(self, monkeypatch, error):
        self.original, self.error = TestSets.evaluate, error
        monkeypatch.setattr(TestSets, "evaluate", lambda *args: self(*args))

    def __call__(self, *args):
        if self.error is None:
            return self.original(*args)
        raise self.error


@pytest.mark.parametrize("period", [0, 2])
def test_a_failed_final_evaluation_loses_nothing(tiny, tmp_path, monkeypatch, period):
    words = ("SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", period, "SOLVER.CHECKPOINT_PERIOD", 0)
    out, whole = tmp_path / "out", tmp_path / "whole"
    expected = train(tiny(*words, "OUTPUT_DIR", str(whole)))
    failing = Failing(monkeypatch, InvalidValueError("a.png cannot be decoded"))
    with pytest.raises(ValueError, match="cannot be decoded") as caught:
        train(tiny(*words))
    final = out / "model_final.pth"
    message = user_message(caught.value)
    assert message.startswith("a.png cannot be decoded\nThe training is done, only its evaluation failed: the weights ")
    assert f"evaluate --config-file {out}/config.yaml --weights {final}" in message
    assert "--resume" in message
    assert set(load(out)) == {"model", "meta"} and last_state(out)["finished"] is False
    assert (out / "last_checkpoint").read_text() == "model_0000002.pth\n"

    with pytest.raises(ValueError, match="cannot be decoded"):
        train(tiny(*words), resume=True)
    failing.error = None
    monkeypatch.setattr(Trainer, "step", None)  # it is not trained again
    metrics = train(tiny(*words), resume=True)
    assert metrics == pytest.approx(expected, nan_ok=True)
    content = load(out)
    assert last_state(out)["finished"] and content["meta"]["metrics"] == pytest.approx(metrics, nan_ok=True)
    assert [row.keys() for row in rows(out)] == [row.keys() for row in rows(whole)]
    assert sorted(p.name for p in out.glob("*.pth")) == sorted(p.name for p in whole.glob("*.pth"))
    assert train(tiny(*words), resume=True) == pytest.approx(metrics, nan_ok=True)
    assert "nothing to do" in (out / "log.txt").read_text()


def evaluating(folder, evaluate, period=4, checkpoint_period=0, max_iter=8, hooks=(), start=0, metric="bbox/AP"):
    """A trainer with the hooks of a run, and its checkpointer's folder."""
    folder.mkdir(exist_ok=True)
    keep = make_checkpointer(folder)
    writer = MetricsWriter(folder, board=False)
    all_hooks = [
        EvaluationHook(evaluate, writer, period),
        BestHook(keep, metric),
        *hooks,
        CheckpointHook(keep, checkpoint_period),
    ]
    return make_trainer(folder, make_config(MAX_ITER=max_iter), hooks=all_hooks, start=start)


def fails(iteration):
    raise RuntimeError("out of memory")


def test_a_test_set_of_which_no_image_can_be_read_is_an_error_also_where_single_ones_may_be_left_out(
    tiny, tmp_path, broken_picture
):
    train(tiny(*SHORT))
    weights = ("MODEL.WEIGHTS", str(tmp_path / "out" / "model_final.pth"))
    catalog = tmp_path / "a.json"
    coco = json.loads(catalog.read_text())
    names = ("circle", "square", "triangle", "star", "cross")
    coco["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    catalog.write_text(json.dumps(coco))
    words = (*broken_picture, "DATASETS.TEST", ("broken",), "DATALOADER.ON_ERROR", "skip")
    with pytest.raises(ValueError, match="none of the 1 images of broken could be read") as caught:
        evaluate(tiny(*words, *weights))
    assert user_message(caught.value) is not None


def test_a_failed_evaluation_in_mid_run_loses_no_step(tmp_path):
    trainer = evaluating(tmp_path, fails, period=3)
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        trainer.train()
    (note,) = caught.value.__notes__
    path = tmp_path / "model_0000003.pth"
    assert f"Only the evaluation failed: {path} holds everything up to iteration 3 of 8" in note
    assert all(torch.equal(value, weights(trainer)[key]) for key, value in load(tmp_path, path.name)["model"].items())


def test_going_on_after_it_makes_the_evaluation_first_and_the_rest_is_the_same(tmp_path):
    seen = {}

    def run(name, evaluate, content=None):
        start = content.iteration if content else 0
        trainer = evaluating(tmp_path / name, evaluate, 3, 3, start=start)
        if content:
            trainer.load_training_state(content)
        trainer.train()
        return trainer

    def notes(name):
        return lambda iteration: seen.setdefault(name, []).append(iteration) or {"bbox/AP": 9.0 - iteration}

    whole = run("whole", notes("whole"))
    with pytest.raises(RuntimeError):
        run("parts", fails)
    parts = run("parts", notes("parts"), Checkpoint.read(tmp_path / "parts" / "model_0000003.pth"))
    assert seen["parts"] == seen["whole"] == [3, 6, 8]
    assert all(torch.equal(weights(whole)[key], value) for key, value in weights(parts).items())
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    best = [load(tmp_path / name, "model_best.pth")["meta"]["iteration"] for name in ("whole", "parts")]
    assert best == [3, 3]


def test_an_evaluation_that_is_no_longer_wanted_is_not_made_up_for(tmp_path):
    with pytest.raises(RuntimeError):
        evaluating(tmp_path, fails, period=0, max_iter=4).train()
    seen = []
    longer = evaluating(tmp_path, lambda i: seen.append(i) or {"bbox/AP": 1.0}, period=0, max_iter=8, start=4)
    longer.load_training_state(Checkpoint.read(tmp_path / "model_0000004.pth"))
    longer.train()
    assert seen == [8]


def test_what_is_saved_before_an_evaluation_gives_way_to_the_next_checkpoint(tmp_path):
    seen = []

    def evaluate(iteration):
        seen.append(checkpoints(tmp_path))
        return {"bbox/AP": 0.0}

    evaluating(tmp_path, evaluate, period=2, checkpoint_period=6).train()
    two, four, six, eight = (f"model_000000{i}.pth" for i in (2, 4, 6, 8))
    best, final = "model_best.pth", "model_final.pth"
    assert seen == [[two], [four, best], [six, best], [six, eight, best, final]]
    assert checkpoints(tmp_path) == [six, eight, best, final]
    assert load(tmp_path, six)["meta"]["metrics"] == {"bbox/AP": 0.0}


@pytest.mark.parametrize("where", ["after_evaluation", "after_last_step", "metric"])
def test_whatever_fails_after_the_last_step_finds_the_weights_saved(tmp_path, where):
    class Breaks(Hook):
        def after_evaluation(self, trainer, metrics):
            if where == "after_evaluation":
                raise TypeError("a fault")

        def after_last_step(self, trainer):
            if where == "after_last_step":
                raise TypeError("a fault")

    metric = "bbox/APx" if where == "metric" else "bbox/AP"
    trainer = evaluating(tmp_path, lambda i: {"bbox/AP": 1.0}, period=0, hooks=[Breaks()], metric=metric)
    with pytest.raises((TypeError, ValueError)):
        trainer.train()
    assert load(tmp_path)["meta"]["iteration"] == 8
    assert last_state(tmp_path)["iteration"] == 8 and not last_state(tmp_path)["finished"]


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_process_that_dies_around_the_final_file_leaves_a_training_that_goes_on(tmp_path, evaluated):
    """It dies after each file of the end in turn: what is there has the last step, and is finished with the last."""
    files = ["model_0000008.pth", "model_final.pth", *(["model_best.pth", "model_final.pth"] if evaluated else [])]
    for count, name in enumerate([*files, "model_0000008.pth"], 1):
        trainer = evaluating(tmp_path / str(count), lambda i: {"bbox/AP": 1.0}, period=0)
        keep, written = trainer.hooks[-1].checkpointer, []
        trainer.hooks = trainer.hooks if evaluated else trainer.hooks[-1:]
        save = keep.save

        def dies(*args, save=save, written=written, count=count):
            path = save(*args)
            written.append(path.name)
            if len(written) == count:
                raise KeyboardInterrupt
            return path

        keep.save = dies
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        assert written[-1] == name
        state = last_state(tmp_path / str(count))
        assert state["iteration"] == 8 and state["finished"] == (count > len(files))


def test_an_early_stop_is_remembered_by_what_was_saved_before_the_end(tmp_path):
    class Stop(Hook):
        def after_step(self, trainer):
            trainer.stop_reason = "enough" if trainer.iteration == 3 else ""

    with pytest.raises(RuntimeError):
        evaluating(tmp_path, fails, period=0, hooks=[Stop()]).train()
    content = Checkpoint.read(tmp_path / "model_0000003.pth")
    again = evaluating(tmp_path, lambda i: {"bbox/AP": 1.0}, period=0, start=3)
    again.load_training_state(content)
    again.train()
    assert (again.iteration, again.stop_reason) == (3, "enough")
    longer = evaluating(tmp_path, lambda i: {"bbox/AP": 1.0}, period=0, start=3, max_iter=9)
    longer.load_training_state(content)
    longer.train()
    assert longer.iteration == 9


# ---------------------------------------------------------------------------------------------- the end
def test_every_hook_is_closed_and_no_error_is_hidden(tmp_path, caplog):
    closed = []

    class Breaks(Hook):
        def __init__(self, number):
            self.number = number

        def close(self):
            closed.append(self.number)
            raise OSError(f"closing {self.number}")

    with pytest.raises(StopIteration):
        make_trainer(tmp_path, data=iter([]), hooks=[Breaks(1), Breaks(2)]).train()
    assert closed == [1, 2] and caplog.text.count("an error while closing") == 2
    with pytest.raises(OSError, match="closing 1"):
        make_trainer(tmp_path, data=make_data(), hooks=[Breaks(1), Breaks(2)]).train()
    assert closed == [1, 2, 1, 2]

"""Several ranks give the metrics of one, and only small things travel between them."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys

import pytest
import torch

from detframe.evaluation import COCOEvaluator, LVISEvaluator, ProposalEvaluator, TT100KEvaluator, VOCEvaluator
from tests.evaluation.fakes import noisy_predictions, random_records, targets_of
from tests.evaluation.test_scorer import scene

EVALUATORS = {
    "coco": COCOEvaluator,
    "lvis": LVISEvaluator,
    "proposals": ProposalEvaluator,
    "tt100k": TT100KEvaluator,
    "voc": VOCEvaluator,
}
# Images that each of three ranks sees, of 10: one seen by two, with other predictions, the last by none, a rank without
SHARDS = ((0, 4, 6, 7), (1, 2, 3, 4, 5, 8), ())
SCRIPT = """
import json, sys
import torch
import torch.distributed as dist
from tests.evaluation import test_ranks
torch.set_num_threads(1)
rank, world = int(sys.argv[1]), int(sys.argv[2])
dist.init_process_group("gloo", init_method="file://" + sys.argv[3], rank=rank, world_size=world)
sys.stdout.write(json.dumps(test_ranks.one_rank(rank)))
dist.destroy_process_group()
"""


def shown(evaluator):
    """What a rank has to say of an evaluation, as JSON gives it back."""
    return [[key, repr(value)] for key, value in sorted(evaluator.compute().items())] + [evaluator.diagnosis()]


def fill(evaluator, records, shards):
    """The predictions of some images of each shard, which are other ones for each."""
    for seed, shard in shards:
        found = scene_predictions(seed)
        evaluator.update([targets_of(records)[i] for i in shard], [found[i] for i in shard])
    return evaluator


def scene_records():
    """Ten images, which were searched for some of the classes, as LVIS has it."""
    records = scene(3)[0]
    for row in records.rows:
        row.update(negative_labels=torch.tensor([2]), partial_labels=torch.tensor([1]))
    return records


def scene_predictions(seed: int):
    """Predictions for the same records, of each seed in another order, so that other images have them."""
    found = scene(3)[1]
    return found[seed:] + found[:seed]


def one_rank(rank: int):
    """All that a rank tries."""
    import torch.distributed as dist

    out, sent = {}, []
    gather = dist.gather_object
    dist.gather_object = lambda value, *args, **kwargs: (
        sent.append(len(pickle.dumps(value))),
        gather(value, *args, **kwargs),
    )
    records = scene_records()
    for name, form in EVALUATORS.items():
        evaluator = fill(form(records), records, [(rank, SHARDS[rank])])
        out[name] = [shown(evaluator), len(evaluator._results)]
        evaluator.gather_results()
        out[name] += [len(evaluator.results()), shown(evaluator)]
    for count in (1, 9):  # of one image, only rank 2 has something; the metrics are poor, and diagnosed
        few = random_records(num_images=count, seed=5)
        evaluator = COCOEvaluator(few)
        targets, predictions = targets_of(few), noisy_predictions(few)
        mine = slice(rank * count // 3, (rank + 1) * count // 3)
        evaluator.update(targets[mine], predictions[mine])
        out[f"of {count}"] = shown(evaluator)
    many, mine = random_records(num_images=120, num_classes=2), slice(40 * rank, 40 * rank + 40)
    evaluator = COCOEvaluator(many)
    evaluator.update(targets_of(many)[mine], noisy_predictions(many, extra=100)[mine])
    sent.clear()
    evaluator.compute()
    out["bytes per detection"] = sum(sent) / sum(len(result) for result in evaluator._results.values())
    out["errors"] = failures(records, rank)
    return out


def failures(records, rank: int):
    """Masks of another size on rank 1 alone: an error on all."""
    evaluator = fill(COCOEvaluator(records), records, [(rank, SHARDS[rank])])
    if rank == 1:
        evaluator._results[2].rles[0]["size"] = [1, 2]
    try:
        evaluator.compute()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@pytest.fixture(scope="module")
def ranks(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")

    def start(rank):
        command = [sys.executable, "-c", SCRIPT, str(rank), "3", str(folder / "together")]
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True)

    return [json.loads(process.communicate(timeout=240)[0]) for process in [start(rank) for rank in range(3)]]


@pytest.mark.parametrize("name", EVALUATORS)
def test_three_ranks_give_the_metrics_of_one(ranks, name: str) -> None:
    records = scene_records()
    alone = fill(EVALUATORS[name](records), records, list(enumerate(SHARDS)))
    expected, images = shown(alone), len(alone._results)
    assert images == 9 and not all(value == repr(math.nan) for _, value in expected[:-1])
    for rank, out in enumerate(ranks):
        first, own, rows, second = out[name]
        assert first == second == expected, rank
        assert own == len(SHARDS[rank])  # computing does not gather predictions
        assert rows == len(alone.results()) if rank == 0 else rows < len(alone.results())


@pytest.mark.parametrize("count", [1, 9])
def test_a_rank_without_images_and_the_diagnosis_are_those_of_one(ranks, count: int) -> None:
    records = random_records(num_images=count, seed=5)
    evaluator = COCOEvaluator(records)
    evaluator.update(targets_of(records), noisy_predictions(records))
    expected = shown(evaluator)
    assert all(out[f"of {count}"] == expected for out in ranks)
    assert (expected[-1] is not None) == (count == 1)


def test_less_than_the_boxes_travels(ranks) -> None:
    """A box with score and class takes 28 bytes."""
    assert all(out["bytes per detection"] < 12 for out in ranks)


def test_an_error_on_one_rank_is_an_error_on_all(ranks) -> None:
    first, second, third = (out["errors"] for out in ranks)
    assert second.startswith("InvalidValueError: a predicted mask of image 2 has size (1, 2)")
    for other in (first, third):
        assert "rank 1 failed matching predictions: InvalidValueError: a predicted mask of image 2" in other

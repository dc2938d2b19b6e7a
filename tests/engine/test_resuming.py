"""Going on under changed settings: what has a right meaning continues exactly, the rest is refused by name."""

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from detframe.checkpoint import Checkpoint
from detframe.config import Pace, get_cfg
from detframe.config.key import CONTINUES, FREE, REFUSED
from detframe.config.keys import all_keys
from detframe.data import build_sampler
from detframe.data.samplers import START
from detframe.engine import place as place_module
from detframe.engine import resuming
from detframe.engine.place import Place, check_same_data, fingerprint, first_place, resumed_place, saved_place
from detframe.engine.resuming import (
    changes_since,
    check_changes,
    is_finished,
    saved_leaves,
)

LEAVES = dict(get_cfg().leaves())


# ---------------------------------------------------------------------------------------------- the table
def test_every_key_says_what_a_change_means():
    assert [key for key in LEAVES if all_keys()[key].resume is None] == []
    assert {statement.resume.kind for statement in all_keys().values()} == {FREE, CONTINUES, REFUSED}


def test_the_docs_show_the_table(root):
    text = (root / "docs" / "many_gpus.md").read_text(encoding="utf-8").replace("`", "")
    for key, statement in all_keys().items():
        assert statement.resume.meaning.replace("`", "") in text, key


def other(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return "other" if isinstance(value, str) else (*value, *(value[:1] or ("x",)))


@pytest.mark.parametrize("key", LEAVES)
def test_a_change_of_any_key_is_seen_and_treated_as_its_row_says(key):
    before = saved_leaves(Checkpoint({}, {"config": get_cfg().dump(), "class_names": []}))
    cfg = get_cfg()
    assert changes_since(before, cfg) == []
    now = SimpleNamespace(leaves=lambda: {**LEAVES, key: other(LEAVES[key])}.items())
    (change,) = changes_since(before, now)
    assert (change.key, change.now) == (key, other(LEAVES[key]))
    if change.rule.kind == REFUSED:
        with pytest.raises(ValueError, match=f"the run began with {key} ") as caught:
            check_changes([change])
        assert "train into another OUTPUT_DIR with MODEL.WEIGHTS set to that checkpoint" in str(caught.value)
    else:
        check_changes([change])


def test_all_refused_keys_are_named_at_once():
    changes = [
        resuming.Change(key, 1, 2, all_keys()[key].resume)
        for key in ("SEED", "SOLVER.BASE_LR", "MODEL.FPN.OUT_CHANNELS")
    ]
    with pytest.raises(ValueError, match=r"SEED 1, the config says 2(.|\n)*FPN\.OUT_CHANNELS") as caught:
        check_changes(changes)
    assert "BASE_LR" not in str(caught.value)


def test_a_key_that_the_version_of_the_checkpoint_did_not_have_has_its_default():
    assert saved_leaves(Checkpoint({}, {"config": "SEED: 3\n", "class_names": []})) == {**LEAVES, "SEED": 3}


# ---------------------------------------------------------------------------------------------- the same data?
class Images:
    """Records of some images."""

    def __init__(self, count=20, objects=2, suffix="", side=64):
        self.image_ids = np.arange(count) + 1
        self.sizes_hw = np.full((count, 2), side, np.int32)
        self.num_objects = np.full(count, objects)
        self.suffix = suffix

    def __len__(self):
        return len(self.image_ids)

    def file_name(self, index):
        return f"/data{self.suffix}/{index}{self.suffix}.jpg"


def compared(now, before=None, **keys):
    """What `check_same_data` says about images and changed keys, after a run on `Images()`."""
    place = Place(Pace.steady(4), START, 0, True, fingerprint(Images()))
    state = {"iteration": 3, "place": place.state_dict()}
    if before is not None:
        state.pop("place")
    saved = {**LEAVES, "DATASETS.TRAIN": ["a"]}
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("a",)
    cfg.merge_from_list([word for pair in keys.items() for word in pair])
    return check_same_data(cfg, now, state, saved, resuming.DATA_KEYS)


def test_the_same_images_may_have_another_name_or_folder():
    assert compared(Images()) == ""
    moved = Images()
    moved.file_name = lambda index: f"/elsewhere/{index}.jpg"
    assert compared(moved, **{"DATASETS.TRAIN": ("b",), "DATASETS.CATALOG": "x.yaml"}) == ""
    assert "new ones count" in compared(Images(objects=3))


@pytest.mark.parametrize("now", [Images(21), Images(suffix="b"), Images(side=65), Images(19)])
def test_other_images_are_refused(now):
    with pytest.raises(ValueError, match="the training data is another one"):
        compared(now)


def test_other_objects_under_another_name_are_another_data_set():
    with pytest.raises(ValueError, match=r"DATASETS\.TRAIN was \['a'\], is \['b'\]"):
        compared(Images(objects=3), **{"DATASETS.TRAIN": ("b",)})


@pytest.fixture
def repeats(monkeypatch):
    """Set how often the 20 images come, as follows from their objects."""
    return lambda value: monkeypatch.setattr(place_module, "image_repeats", lambda cfg, records: value)


def test_other_objects_that_change_how_often_images_come_are_refused(repeats):
    cfg = get_cfg()
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.5
    repeats(np.linspace(1, 3, 20))
    first = first_place(cfg, Images())
    assert first.images_per_epoch == 40
    state, saved = {"iteration": 3, "place": first.state_dict()}, dict(cfg.leaves())
    assert saved_place(state, {}, None) == first
    repeats(np.linspace(1, 3, 20) + 1e-13)
    assert check_same_data(cfg, Images(), state, saved, resuming.DATA_KEYS) == ""
    assert "new ones count" in check_same_data(cfg, Images(objects=3), state, saved, resuming.DATA_KEYS)
    repeats(np.linspace(1, 3.1, 20))
    with pytest.raises(ValueError, match=r"other objects are in .* \(DATALOADER\.REPEAT_THRESHOLD 0\.5\)"):
        check_same_data(cfg, Images(), state, saved, resuming.DATA_KEYS)
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.6  # is refused as a changed key, by its own words
    assert check_same_data(cfg, Images(), state, saved, resuming.DATA_KEYS) == ""


def test_another_batch_in_the_middle_of_an_epoch_with_repeats(repeats):
    cfg, records, often = get_cfg(), Images(20), np.linspace(1, 3, 20)
    records.sizes_hw[::3, 1] = 99
    repeats(often)
    state = {"iteration": 7, "place": first_place(cfg.changed([("SOLVER.IMS_PER_BATCH", 4)]), records).state_dict()}
    new = resumed_place(cfg.changed([("SOLVER.IMS_PER_BATCH", 8)]), records, state, LEAVES)
    old = build_sampler(records, 4, 0, True, repeats=often)
    drawn = [draw.position for batch in islice(old.batches(), 7) for draw in batch]
    assert sorted((*drawn, *new.beginning.pending)) == list(range(new.beginning.origin))


def test_old_checkpoints_are_compared_by_keys():
    assert compared(Images(), before="old") == ""
    with pytest.raises(ValueError, match=r"DATASETS\.LIMIT was 0, is 5"):
        compared(Images(5), before="old", **{"DATASETS.LIMIT": 5})


def test_place_of_an_old_checkpoint():
    place = saved_place({"iteration": 5}, {**LEAVES, "SOLVER.IMS_PER_BATCH": 4}, Images())
    assert place.pace == Pace.steady(4)
    assert place.pace.images_at(5) == 20
    state = place.state_dict()
    assert saved_place({"place": state}, {}, None) == place


def test_another_batch_in_the_middle_of_a_window_of_wide_and_tall_images():
    records = Images(50)
    records.sizes_hw[::3, 1] = 99
    cfg = get_cfg()
    cfg.SOLVER.IMS_PER_BATCH = 4
    old = first_place(cfg, records)
    state = {"iteration": 5, "place": old.state_dict()}
    assert resumed_place(cfg, records, state, LEAVES) == old
    cfg.SOLVER.IMS_PER_BATCH = 8
    new = resumed_place(cfg, records, state, LEAVES)
    assert (new.begun_at, new.pace.images_at(5), new.pace.images_at(6)) == (5, 20, 28)
    drawn = [draw.position for batch in islice(build_sampler(records, 4, 0, True).batches(), 5) for draw in batch]
    assert sorted((*drawn, *new.beginning.pending)) == list(range(new.beginning.origin))
    assert new.beginning.pending
    kept = {"iteration": 7, "place": new.state_dict()}
    assert saved_place(kept, {}, None) == new
    assert resumed_place(cfg, records, kept, LEAVES) == new


@pytest.mark.parametrize(
    ("batch", "max_iter", "finished"),
    [(4, 8, True), (4, 6, True), (4, 9, False), (8, 8, True), (2, 10, False), (8, 12, False)],
)
def test_finished(batch, max_iter, finished):
    """A finished run of 8 steps of 4 images."""
    pace = Pace.steady(4).changed(8, batch)
    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER = max_iter
    state = {"finished": True, "iteration": 8, "max_iter": 8, "max_images": 32}
    assert is_finished(cfg, state, SimpleNamespace(pace=pace)) is finished


def test_stopped_early_with_half_a_batch_is_still_finished():
    """4 of 8 steps of 4 images; the same epochs in halves are 4 + 8 steps."""
    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER = 12
    state = {"finished": True, "iteration": 4, "max_iter": 8, "max_images": 32}
    assert is_finished(cfg, state, SimpleNamespace(pace=Pace.steady(4).changed(4, 2)))


def test_another_number_of_ranks_is_said(caplog):
    caplog.set_level("INFO", "detframe")
    place = Place(Pace.steady(4), START, 0, True, fingerprint(Images()))
    resuming.log_changes([], {"rng": [{}, {}], "iteration": 3}, place, get_cfg())
    assert "2 ranks -> 1: the same batches in the same order" in caplog.text

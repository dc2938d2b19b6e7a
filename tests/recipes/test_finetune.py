"""What `detframe.finetune` says of itself: its arguments, not the options of the command."""

from __future__ import annotations

from pathlib import Path

import pytest

import detframe
from detframe.errors import UserError

SMALL = [
    "INPUT.MIN_SIZE_TRAIN", "[32]", "MODEL.FPN.OUT_CHANNELS", 8, "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 16,
    "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, "TEST.REPORT", False,
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"task": "masks"}, "^task must be one of box, mask, keypoint, not 'masks'"),
        ({"task": "mask"}, "^task='mask' trains on masks, .*; task='box' trains on their boxes"),
        ({"task": "keypoint"}, "^task='keypoint' trains on keypoints, .*; task='box' trains"),
        ({"model": "smal"}, "^model 'smal' is none of small"),
        ({"weights": "mine.pth"}, "^weights='mine.pth': there is no such file"),
        ({"output": "a", "overrides": {"OUTPUT_DIR": "b"}}, "^output='a' and OUTPUT_DIR b are two folders"),
        ({"overrides": {"DATASETS.TRAIN": ["x"]}}, "DATASETS.TRAIN is set, but path says what to train on"),
    ],
)
def test_finetune_names_its_own_arguments(squares: Path, given: dict, said: str) -> None:
    """They were called as the options of the command: --task."""
    words = given.get("overrides", {})
    overrides = [*SMALL, *(word for pair in words.items() for word in pair)]
    with pytest.raises(UserError, match=said) as caught:
        detframe.finetune("squares", **{**given, "overrides": overrides})
    assert "--" not in str(caught.value) and not Path("output").exists()


def test_the_recipe_of_a_call_names_its_arguments(squares: Path) -> None:
    detframe.finetune("squares", weights="none", output="out", overrides=[*SMALL, "SOLVER.MAX_ITER", 1])
    text = " ".join(Path("out/recipe.yaml").read_text(encoding="utf-8").replace("#", " ").split())
    assert "as given in overrides" in text and "as weights='none' asks" in text and "--weights" not in text

"""Which classes were looked for in an image that is made of several, as of LVIS (arXiv:1908.03195)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator

from detframe.data.transforms.mixing import CopyPaste, MixUp, Mosaic
from detframe.modeling.ground_truth import pack_targets
from detframe.structures import LazyMasks

CLASSES = range(1, 7)
SHOWN, ABSENT, PARTIAL = "shown", "absent", "partial"


def sample(said: dict[int, str] | None, shown: tuple[int, ...] = ()) -> tuple[torch.Tensor, Any]:
    """An image of 40 x 60 with an object of each class that it shows; of `said` what was looked for, if not all was."""
    labels = [*shown, *[label for label, what in (said or {}).items() if what != ABSENT]]
    corners = [[8.0 * i, 8.0 * (i // 4), 8.0 * i + 8, 8.0 * (i // 4) + 30] for i in range(len(labels))]
    target: dict[str, Any] = {
        "boxes": torch.tensor(corners).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "masks": LazyMasks([[np.array([x, y, z, y, z, w, x, w])] for x, y, z, w in corners], (40, 60)),
    }
    if said is not None:
        for key, what in (("negative_labels", ABSENT), ("partial_labels", PARTIAL)):
            target[key] = torch.tensor([label for label in said if said[label] == what], dtype=torch.int64)
    return torch.zeros(3, 40, 60, dtype=torch.uint8), target


def judged(target: Any) -> list[int]:
    """The classes that the ground truth of a model counts as looked for."""
    row = pack_targets([target], len(CLASSES), torch.device("cpu")).judged
    assert row is not None
    return [label for label in CLASSES if row[0, label - 1] > 0]


FIRST = {1: SHOWN, 2: ABSENT, 3: PARTIAL, 4: ABSENT, 5: SHOWN}
OTHER = {1: SHOWN, 2: SHOWN, 3: SHOWN, 4: ABSENT, 6: SHOWN}


@pytest.mark.parametrize("mixing", [MixUp(), Mosaic(size=200, scale=(0.5, 0.5), centre=(0.5, 0.5))])
def test_a_class_stays_judged_where_all_images_judged_it(mixing: Any) -> None:
    others = [sample(OTHER) for _ in range(mixing.partners)]
    _, target = mixing.mix(*sample(FIRST), others, Generator().manual_seed(0))
    assert set(target["labels"].tolist()) == {1, 2, 3, 5, 6}
    assert judged(target) == [1, 2, 4]
    assert target["negative_labels"].tolist() == [4]  # 2 is there now
    assert target["partial_labels"].tolist() == [3, 5, 6]  # 5 and 6 were looked for in some of the images


def test_an_image_that_does_not_say_was_searched_for_every_class() -> None:
    plain = sample(None, (2, 6))
    for first, other in ((sample(FIRST), plain), (plain, sample(FIRST))):
        _, target = MixUp().mix(*first, [other], Generator().manual_seed(0))
        assert judged(target) == [1, 2, 4, 5]
        assert (target["negative_labels"].tolist(), target["partial_labels"].tolist()) == ([4], [3, 6])
    _, target = MixUp().mix(*plain, [plain], Generator().manual_seed(0))
    assert "negative_labels" not in target and "partial_labels" not in target


def test_of_pasted_objects_only_their_own_classes_matter() -> None:
    """Nothing of the other image is shown but the objects, so that what was not looked for there is not there."""
    _, target = CopyPaste(share=1.0).mix(*sample(FIRST), [sample({2: SHOWN, 6: PARTIAL})], Generator().manual_seed(0))
    assert {2, 6} <= set(target["labels"].tolist())
    shown = [label for label in (1, 5) if label in target["labels"]]
    assert judged(target) == sorted([*shown, 2, 4])
    assert (target["negative_labels"].tolist(), target["partial_labels"].tolist()) == ([4], [3, 6])
    _, target = CopyPaste(share=1.0).mix(*sample(None, (1,)), [sample(OTHER)], Generator().manual_seed(0))
    assert "negative_labels" not in target and "partial_labels" not in target

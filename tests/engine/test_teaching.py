"""A run of distillation reads its teacher from a checkpoint."""

from __future__ import annotations

import pytest
import torch

from detframe.checkpoint import Checkpoint
from detframe.engine.teaching import give_teacher
from detframe.modeling import build_detection_model
from tests.modeling.tiny import FULL, make_images, tiny_config

SMALL = {"MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 16, "MODEL.RPN.FINEST_LEVEL": "p2", "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0}
STUDENT = {"MODEL.BACKBONE.CONV_BODY": "MNV2-EFPN", "MODEL.EFPN.WIDTH": 8, "MODEL.MOBILENET.NORM": "FrozenBN"}
STUDENT |= {"MODEL.DISTILL.ON": True, "MODEL.DISTILL.DETECTION": True}


@pytest.fixture
def teacher(tmp_path):
    """The path of a checkpoint, and what is in it."""
    cfg = tiny_config(SMALL)
    torch.manual_seed(1)
    model = build_detection_model(cfg)
    meta = {"config": cfg.dump(), "class_names": ["a", "b", "c"], "category_ids": [1, 2, 3]}
    Checkpoint(model.state_dict(), meta).write(tmp_path / "teacher.pth")
    return tmp_path / "teacher.pth", model


def test_the_teacher_is_that_of_the_file(teacher):
    path, model = teacher
    cfg = tiny_config({**SMALL, **STUDENT, "MODEL.DISTILL.TEACHER_WEIGHTS": str(path)})
    student = build_detection_model(cfg)
    give_teacher(cfg, student)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found, wanted = student.teacher[0].backbone.targets(x), model.eval().backbone.targets(x)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.isfinite(student(make_images(), [FULL, FULL])["loss_distill_p2"])


def test_without_a_name_nobody_is_read():
    cfg = tiny_config({**SMALL, **STUDENT})
    student = build_detection_model(cfg)
    give_teacher(cfg, student)
    assert student.teacher == () and not student.awaits_teacher


def test_a_file_that_is_not_there(tmp_path):
    cfg = tiny_config({**SMALL, **STUDENT, "MODEL.DISTILL.TEACHER_WEIGHTS": str(tmp_path / "none.pth")})
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        give_teacher(cfg, build_detection_model(cfg))

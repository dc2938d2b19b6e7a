"""The table of the model's parts at the start of a training."""

from __future__ import annotations

import logging

from detframe.engine.build import log_model, model_table
from detframe.engine.terminal import TerminalFormatter
from detframe.modeling import build_detection_model
from detframe.solver import parameter_groups
from tests.modeling.tiny import tiny_config


def rows(*opts):
    cfg = tiny_config({"MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 32}, *opts)
    model = build_detection_model(cfg)
    lines = model_table(model, parameter_groups(cfg, model)).splitlines()
    assert lines[0].split() == ["module", "params", "M", "trained", "M", "norm", "lr", "x"]
    # columns are at least two blanks apart
    return model, {
        line.split()[0]: [cell.strip() for cell in line.split("  ") if cell.strip()][1:] for line in lines[1:]
    }


def test_every_parameter_is_in_one_row():
    model, table = rows()
    total = sum(p.numel() for p in model.parameters()) / 1e6
    assert abs(sum(float(cells[0]) for cells in table.values()) - total) < 0.001 * len(table)
    assert {"backbone.body.layer1", "backbone.fpn", "rpn.head", "roi_heads.box_head"} <= set(table)


def test_norms_modes_and_factors():
    opts = ["MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "GN", "SOLVER.BACKBONE_LR_FACTOR", 0.1]
    _, table = rows(*opts, "SOLVER.BIAS_LR_FACTOR", 2.0)
    assert table["backbone.body.layer1"][1:] == ["0.000", "4 FrozenBN", "-"]
    assert table["backbone.body.layer2"][2:] == ["5 BN (batch statistics)", "0.1"]
    assert table["backbone.fpn"][2:] == ["8 GN", "0.1"]
    assert table["rpn.head"][2:] == ["-", "1 to 2"]


def test_the_heading_stands_over_its_columns_in_the_log(caplog):
    cfg = tiny_config({"MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 32})
    model = build_detection_model(cfg)
    groups = parameter_groups(cfg, model)
    with caplog.at_level(logging.INFO, logger="detframe"):
        log_model(model, groups)
    (record,) = caplog.records
    first, *table = TerminalFormatter("%H:%M:%S").format(record).splitlines()
    assert " model: " in first and first.endswith(" M of them trained")
    assert table == model_table(model, groups).splitlines() and table[0].startswith("module ")

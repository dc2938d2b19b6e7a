"""MODEL.COMPILE: graphs without a break, counted, and what they compute is what is computed without them.

The detectors have a body of one convolution a level, and graphs are run as they are traced, so that they are made in
seconds; one test has all of it: R-18, and machine code.
"""

from __future__ import annotations

import copy
import io
import logging

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from detframe.config import get_cfg
from detframe.errors import InvalidValueError
from detframe.modeling import build_detection_model
from detframe.modeling.compiling import Compiled, Graphs, compile_model, without_graphs
from tests.modeling.compiled import (
    CPU,
    DETECTORS,
    SAMPLED,
    SECOND,
    Body,
    Counter,
    check_same,
    images_of,
    made,
    pair,
    step,
)
from tests.modeling.tiny import EMPTY, FULL, make_images, make_target, tiny_config

pytestmark = pytest.mark.filterwarnings("ignore")  # the compiler warns of its own affairs


# ---------------------------------------------------------------------------------------------- the key
@pytest.mark.parametrize(
    ("written", "read"),
    [("True", "dense"), ("False", "off"), ("off", "off"), ("dense", "dense"), ("step", "step")],
)
def test_what_was_true_or_false_once_is_still_read(tmp_path, written, read):
    cfg = get_cfg()
    (tmp_path / "old.yaml").write_text(f"MODEL:\n  COMPILE: {written}\n")
    cfg.merge_from_file(str(tmp_path / "old.yaml"))
    assert cfg.MODEL.COMPILE == read
    cfg.merge_from_list(["MODEL.COMPILE", "off"])
    cfg.merge_from_list(["MODEL.COMPILE", written])
    assert cfg.MODEL.COMPILE == read


@pytest.mark.parametrize(("value", "read"), [(True, "dense"), (False, "off")])
def test_truths_of_python(value, read):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.COMPILE", value])
    assert cfg.MODEL.COMPILE == read


def test_another_word_is_refused():
    with pytest.raises(ValueError, match=r"MODEL\.COMPILE.*one of 'off', 'dense', 'step'"):
        build_detection_model(tiny_config({}, "MODEL.COMPILE", "whole"))


# ---------------------------------------------------------------------------------------------- dense
@pytest.mark.parametrize("name", DETECTORS)
def test_dense_parts_are_whole_graphs(name):
    eager, compiled, counter = pair(name, "dense")
    check_same(step(compiled, make_images(), [FULL, EMPTY]), step(eager, make_images(), [FULL, EMPTY]))
    assert counter.graphs == len(compiled.graphs.made) == 2
    assert [graph.name for graph in compiled.graphs.made] == ["backbone", "dense head"]
    step(compiled, make_images(), [EMPTY, EMPTY])
    assert counter.graphs == 2
    eager.eval(), compiled.eval()
    with torch.no_grad():
        for found, wanted in zip(compiled(make_images()), eager(make_images()), strict=True):
            torch.testing.assert_close(found, wanted)
    assert counter.graphs == len(compiled.graphs.made) == 4


def dense_parts(model, height, width):
    """The maps and the head's outputs of a batch of noise, as one list."""
    batch = model.preprocessor(images_of(height, width))
    with torch.no_grad():
        maps = list(model.backbone(batch.tensors).values())
        logits, deltas = model.rpn.head(maps)
    return [*maps, *logits, *deltas]


def check_parts(pair, sizes):
    for size in sizes:
        for found, wanted in zip(*(dense_parts(model, *size) for model in pair), strict=True):
            torch.testing.assert_close(found, wanted)


def test_further_shapes_share_graphs():
    """The first shape has graphs of its own; those that follow share some, in which shapes are symbols."""
    eager, compiled, counter = pair("retinanet", "dense")
    check_parts((compiled, eager), [(200, 330), (260, 410), (330, 460), (200, 330), (300, 590)])
    assert [graph.name for graph in compiled.graphs.made].count("backbone") == 2
    assert counter.graphs == len(compiled.graphs.made) < 2 * 4


def test_as_many_graphs_as_there_are_shapes():
    eager, compiled, counter = pair("retinanet", "dense", shapes=2)
    check_parts((compiled, eager), [(128, 128), (128, 256), (128, 128), (128, 256)])
    assert counter.graphs == len(compiled.graphs.made) == 2 * 2


def test_more_shapes_than_a_function_has_graphs_in_pytorch():
    """PyTorch alone gives up after eight of one function."""
    counter, layer = Counter(), nn.Linear(3, 3)
    compiled = Compiled("layer", layer.forward, layer, Graphs(10, counter), open=True)
    for rows in range(2, 12):
        torch.testing.assert_close(compiled(torch.ones(rows, 3)), layer(torch.ones(rows, 3)))
    assert counter.graphs == len(compiled.graphs.made) == 10


def test_the_weights_of_now_count():
    eager, compiled, counter = pair("fcos", "dense")
    for _ in range(2):
        check_same(step(compiled, make_images(), [FULL, EMPTY]), step(eager, make_images(), [FULL, EMPTY]))
        with torch.no_grad():
            for model in (eager, compiled):
                for parameter in model.parameters():
                    parameter.mul_(0.9)
    assert counter.graphs == 2


# ---------------------------------------------------------------------------------------------- copies, fake tensors
def test_a_copy_runs_its_own_parts():
    _, compiled, _ = pair("fcos", "dense")
    other = copy.deepcopy(compiled)
    assert other.backbone.forward.function.__self__ is other.backbone
    with torch.no_grad():
        for parameter in other.backbone.parameters():
            parameter.zero_()
    before = step(compiled, make_images(), [FULL, EMPTY])
    step(other, make_images(), [FULL, EMPTY])
    check_same(step(compiled, make_images(), [FULL, EMPTY]), before)
    assert len(other.graphs.made) == len(compiled.graphs.made) == 2


def test_a_compiled_model_is_written_and_read():
    """With PyTorch's own means for whole models; a backend of a test cannot be written."""
    eager, compiled = made("fcos"), made("fcos")
    compile_model(compiled, "dense", CPU, backend="eager")
    file = io.BytesIO()
    torch.save(compiled, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert again.backbone.forward.function.__self__ is again.backbone
    check_same(step(again, make_images(), [FULL, EMPTY]), step(eager, make_images(), [FULL, EMPTY]))


def test_hooks_are_called_without_graphs():
    _, compiled, counter = pair("retinanet", "dense")
    dense_parts(compiled, 128, 128)
    called = []
    handle = compiled.backbone.convs[0].register_forward_hook(lambda *_: called.append(1))
    with without_graphs(compiled):
        dense_parts(compiled, 128, 128)
    handle.remove()
    dense_parts(compiled, 128, 128)
    assert (called, counter.graphs) == ([1], 2)


def test_tensors_without_values_have_no_graph():
    _, compiled, counter = pair("fcos", "dense")
    with FakeTensorMode(allow_non_fake_inputs=True):
        compiled.backbone(torch.empty(1, 3, 128, 128))
    assert counter.graphs == 0


# ---------------------------------------------------------------------------------------------- what cannot be
class Asking(Body):
    """A body that asks for a value."""

    def forward(self, x):
        return super().forward(x * (2.0 if float(x.sum()) > 1e9 else 1.0))


class Refusing(Body):
    def forward(self, x):
        raise InvalidValueError("these images are not for me")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (Asking, r"MODEL\.COMPILE: PyTorch .* cannot make one graph of the backbone: .*\. Use MODEL\.COMPILE off"),
        (Refusing, "^these images are not for me$"),
    ],
)
def test_what_no_graph_can_hold_is_named(body, message):
    model = made("fcos")
    model.backbone = body(model.backbone.strides)
    compile_model(model, "dense", CPU, backend="eager")
    with pytest.raises(InvalidValueError, match=message):
        model(make_images(), [FULL, EMPTY])


def test_a_step_that_no_graph_can_hold_is_told_before_other_graphs_are_made():
    def broken(graph, inputs):
        raise RuntimeError("the compiler was killed")

    model = made("fcos")
    compile_model(model, "step", CPU, backend=broken)
    with pytest.raises(InvalidValueError, match=r"graph of the training step: .*the compiler was killed\. Use .*dense"):
        model(make_images(), [FULL, EMPTY])
    assert not model.graphs.made and not model.graphs.paused


def test_a_norm_with_a_single_value_is_explained_as_without_graphs():
    keys = {**DETECTORS["fcos"], "MODEL.RESNETS.NORM": "BN", "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0}
    compiled, messages = build_detection_model(tiny_config(keys)), []
    compile_model(compiled, "dense", CPU, backend="eager")
    for model in (compiled, build_detection_model(tiny_config(keys))):
        with pytest.raises(InvalidValueError, match="this pass holds an image of 20x20 pixels") as raised:
            model([torch.zeros(3, 20, 20, dtype=torch.uint8)], [EMPTY])
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


# ---------------------------------------------------------------------------------------------- log
def test_each_graph_is_in_the_log(caplog, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    _, compiled, _ = pair("fcos", "dense")
    with caplog.at_level(logging.INFO, logger="detframe"):
        compiled.backbone(torch.zeros(2, 3, 128, 256))
        (tmp_path / "code").write_text("")
        compiled.rpn.head([torch.zeros(2, 16, 4, 4)] * 5)
    first, second = [record.getMessage() for record in caplog.records]
    assert first.startswith("compiled the backbone for training, 2x3x128x256: ")
    assert first.endswith(f"s until it had run (graph 1, all from {tmp_path})")
    assert second.endswith(f"s until it had run (graph 2, 1 new files in {tmp_path})")
    assert all(graph.seconds > 0 for graph in compiled.graphs.made)


# ---------------------------------------------------------------------------------------------- step
HOST = r"masks \(MODEL.MASK_ON\) are cut out on the host"


@pytest.mark.parametrize("name", DETECTORS)
def test_a_training_step_is_one_graph(name):
    """Of losses that sample too: what is random follows from the seeds of the images."""
    eager, compiled, counter = pair(name, "step", *SAMPLED)
    check_same(step(compiled, make_images(), [FULL, EMPTY]), step(eager, make_images(), [FULL, EMPTY]))
    assert counter.graphs == 1
    other = [{**EMPTY, "seed": 9}, {**FULL, "seed": 77}]
    check_same(step(compiled, make_images(), other), step(eager, make_images(), other))
    many = make_target([[float(i), 3, i + 20, 40] for i in range(30)], [1 + i % 3 for i in range(30)], seed=3)
    check_same(step(compiled, make_images(), [many, FULL]), step(eager, make_images(), [many, FULL]))
    assert counter.graphs == len(compiled.graphs.made) == 1
    assert compiled.graphs.made[0].name == "training step"


@pytest.mark.parametrize("name", SECOND)
def test_a_training_step_with_another_second_stage_is_one_graph(name):
    """Differentiated when it is made, as machine code is."""
    eager, compiled = made(name, *SAMPLED), made(name, *SAMPLED)
    compile_model(compiled, "step", CPU, backend="aot_eager")
    full = {**FULL, "keypoints": torch.tensor([[[10.0, 12, 2], [39, 4, 1]], [[30, 20, 2], [0, 0, 0]]])}
    none = {**EMPTY, "keypoints": torch.zeros(0, 2, 3)}
    for targets in ([full, none], [none, {**none, "seed": 9}], [{**none, "seed": 3}, {**full, "seed": 77}]):
        found, wanted = (step(model, make_images()[::-1], targets) for model in (compiled, eager))
        check_same(found, wanted)
    assert [graph.name for graph in compiled.graphs.made] == ["training step"]


@pytest.mark.parametrize("name", [*DETECTORS, *SECOND])
def test_a_training_step_can_be_kept(name):
    """A function with a gradient of its own would have the next process differentiate and part the graph anew."""
    _, compiled, counter = pair(name, "step", *SAMPLED)
    points = {"keypoints": torch.zeros(2, 2, 3)} if name == "keypoint_rcnn" else {}
    step(compiled, make_images(), [{**FULL, **points}] * 2)
    assert counter.graphs == 1
    assert not [operation for operation in counter.operations if "autograd_function" in operation]


def test_a_step_has_as_many_graphs_as_batches_have_shapes():
    eager, compiled, counter = pair("retinanet", "step", shapes=2)
    for size in [(128, 128), (128, 256), (128, 128), (128, 256)]:
        check_same(step(compiled, images_of(*size), [FULL, FULL]), step(eager, images_of(*size), [FULL, FULL]))
    assert counter.graphs == len(compiled.graphs.made) == 2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({**DETECTORS["faster_rcnn"], "MODEL.MASK_ON": True}, HOST),
        ({**SECOND["cascade"], "MODEL.MASK_ON": True}, HOST),
        ({**DETECTORS["faster_rcnn"], "MODEL.MASK_ON": True, "MODEL.ROI_MASK_HEAD.NAME": "PointRend"}, HOST),
        (
            {
                "MODEL.BACKBONE.CONV_BODY": "R-18-EFPN",
                "MODEL.RPN.FINEST_LEVEL": "p2",
                "MODEL.DISTILL.ON": True,
                "MODEL.FREEZE": ("backbone.body.*", "backbone.fpn.*", "rpn.*", "roi_heads.*"),
            },
            r"DistilledRCNN \(MODEL.DISTILL.ON\) trains on two sizes of an image",
        ),
    ],
)
def test_a_step_that_cannot_be_one_graph_is_refused_by_name(keys, message):
    with pytest.raises(
        InvalidValueError, match=f"^MODEL.COMPILE cannot be 'step' here: {message}; use 'dense' or 'off'"
    ):
        build_detection_model(tiny_config(keys, "MODEL.COMPILE", "step"))


def test_mixed_precision_has_a_graph_of_its_own():
    eager, compiled, counter = pair("retinanet", "step")
    for dtype in (torch.float32, torch.bfloat16, torch.bfloat16):
        with torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
            found, wanted = (step(model, make_images(), [FULL, EMPTY]) for model in (compiled, eager))
        for key, loss in wanted[0].items():
            torch.testing.assert_close(found[0][key], loss, atol=1e-3, rtol=1e-2)
    assert counter.graphs == len(compiled.graphs.made) == 2


def test_ignored_regions_are_known_to_the_graph():
    eager, compiled, counter = pair("retinanet", "step")
    region = {**EMPTY, "ignore_boxes": torch.tensor([[0.0, 0, 60, 50]])}
    found, wanted = (step(model, make_images(), [FULL, region]) for model in (compiled, eager))
    check_same(found, wanted)
    assert wanted[0]["loss_retinanet_cls"] < step(eager, make_images(), [FULL, EMPTY])[0]["loss_retinanet_cls"]
    assert counter.graphs == 1


def test_more_objects_than_a_graph_has_rows_need_another():
    eager, compiled, counter = pair("retinanet", "step", shapes=1)
    many = make_target([[float(i % 25), 3, i % 25 + 20, 40] for i in range(65)], [1 + i % 3 for i in range(65)], seed=3)
    for targets in ([many, FULL], [FULL, FULL], [FULL, many]):
        check_same(step(compiled, make_images(), targets), step(eager, make_images(), targets))
    assert counter.graphs == 2


def test_shapes_beyond_those_that_have_graphs_run_without(caplog):
    eager, compiled, counter = pair("retinanet", "step", shapes=1)
    with caplog.at_level(logging.WARNING, logger="detframe"):
        for size in [(128, 128), (128, 256), (256, 128)]:
            check_same(step(compiled, images_of(*size), [FULL, FULL]), step(eager, images_of(*size), [FULL, FULL]))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "the training step has come in 1 shapes, each with a graph; further ones run without" in warning
    assert "Set INPUT.BUCKETS" in warning
    made = [graph.name for graph in compiled.graphs.made]
    assert made[0] == "training step"
    assert made.count("training step") == 1
    assert counter.graphs >= len(made)


@pytest.mark.slow
def test_machine_code_of_a_step_computes_what_eager_mode_does():
    eager, compiled = made("fcos"), made("fcos")
    compile_model(compiled, "step", CPU)
    for targets in ([FULL, EMPTY], [FULL, FULL]):
        found = step(compiled, make_images(), targets)
        check_same(found, step(eager, make_images(), targets))
    again = step(compiled, make_images(), [FULL, FULL])
    assert all(torch.equal(again[1][name], gradient) for name, gradient in found[1].items())
    assert len(compiled.graphs.made) == 1

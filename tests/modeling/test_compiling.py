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
from torch.nn import functional as F

from detframe.config import get_cfg
from detframe.errors import InvalidValueError
from detframe.layers import ConvNorm
from detframe.modeling import build_detection_model
from detframe.modeling.compiling import Compiled, Graphs, compile_model
from tests.modeling.tiny import DENSE, EMPTY, FULL, make_images, tiny_config

pytestmark = pytest.mark.filterwarnings("ignore")  # the compiler warns of its own affairs
CPU = torch.device("cpu")
DETECTORS = {
    "fcos": {**DENSE, "MODEL.RPN.NAME": "FCOS", "MODEL.FCOS.NUM_CONVS": 1},
    "retinanet": {**DENSE, "MODEL.RPN.NAME": "RetinaNet", "MODEL.RETINANET.NUM_CONVS": 1},
    "faster_rcnn": {
        "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 16,
        "MODEL.RPN.PRE_NMS_TOP_N_TRAIN": 50,
        "MODEL.RPN.POST_NMS_TOP_N_TRAIN": 20,
    },
}


class Body(nn.Module):
    """One convolution a level."""

    def __init__(self, strides):
        super().__init__()
        self.strides, self.out_channels = dict(strides), 16
        self.convs = nn.ModuleList(ConvNorm(3, 16, 3, norm="FrozenBN", relu=True) for _ in strides)

    def forward(self, x):
        levels = zip(self.convs, self.strides.items(), strict=True)
        return {name: conv(F.avg_pool2d(x, stride, ceil_mode=True)) for conv, (name, stride) in levels}


class Counter:
    """A backend that counts the graphs that it is given, and runs them as they are."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


def made(name, *opts):
    torch.manual_seed(0)
    model = build_detection_model(tiny_config(DETECTORS[name], *opts))
    model.backbone = Body(model.backbone.strides)
    return model


def pair(name, how, *opts, shapes=0):
    """A detector, the same one compiled, and the counter of its graphs."""
    eager, compiled, counter = made(name, *opts), made(name, *opts), Counter()
    compiled.load_state_dict(eager.state_dict())
    compile_model(compiled, how, CPU, shapes, backend=counter)
    return eager, compiled, counter


def images_of(height, width):
    generator = torch.Generator().manual_seed(height)
    return [torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator) for _ in range(2)]


def step(model, images, targets):
    """Losses and gradients."""
    model.zero_grad()
    losses = model(images, targets)
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return {key: loss.detach() for key, loss in losses.items()}, gradients


def check_same(a, b):
    for found, wanted in zip(a, b, strict=True):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-4, msg=lambda m, k=key: f"{k}: {m}")


# ---------------------------------------------------------------------------------------------- the key
@pytest.mark.parametrize(
    ("written", "read"),
    [("True", "dense"), ("False", "off"), ("off", "off"), ("dense", "dense")],
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
    with pytest.raises(ValueError, match=r"MODEL\.COMPILE.*one of 'off', 'dense'"):
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


def test_a_norm_with_a_single_value_is_explained_as_without_graphs():
    keys = {**DETECTORS["fcos"], "MODEL.RESNETS.NORM": "BN", "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0}
    compiled, messages = build_detection_model(tiny_config(keys)), []
    compile_model(compiled, "dense", CPU, backend="eager")
    for model in (compiled, build_detection_model(tiny_config(keys))):
        with pytest.raises(InvalidValueError, match="this pass holds an image of 20x20 pixels") as raised:
            model([torch.zeros(3, 20, 20, dtype=torch.uint8)], [EMPTY])
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


# ---------------------------------------------------------------------------------------------- tools and cache
def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InvalidValueError, match=r"needs a C\+\+ compiler, and there is no 'no-such-compiler'.*off"):
        build_detection_model(tiny_config(DETECTORS["fcos"], "MODEL.COMPILE", "dense"))


def test_missing_headers_of_python_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(InvalidValueError, match=r"headers of Python, and there is no .*Python\.h"):
        build_detection_model(tiny_config(DETECTORS["fcos"], "MODEL.COMPILE", "dense"))


@pytest.fixture
def no_folder(monkeypatch):
    monkeypatch.setattr("os.environ", {})


def test_graphs_are_kept_below_the_cache(monkeypatch, tmp_path, no_folder):
    import os

    from detframe.modeling.compile_tools import keep_cache

    os.environ["DETFRAME_CACHE"] = str(tmp_path)
    keep_cache()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled")
    assert os.environ["TORCHINDUCTOR_FX_GRAPH_CACHE"] == os.environ["TORCHINDUCTOR_AUTOGRAD_CACHE"] == "1"


@pytest.mark.parametrize(
    "said", [{"DETFRAME_CACHE": "off"}, {"TORCHINDUCTOR_CACHE_DIR": "/mine", "TORCHINDUCTOR_FX_GRAPH_CACHE": "0"}]
)
def test_what_the_user_says_of_the_cache_stays(said, no_folder):
    import os

    from detframe.modeling.compile_tools import keep_cache

    os.environ.update(said)
    keep_cache()
    assert {name: os.environ.get(name) for name in said} == said
    assert said.get("TORCHINDUCTOR_CACHE_DIR") == os.environ.get("TORCHINDUCTOR_CACHE_DIR")


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
    assert compiled.graphs.seconds == sum(graph.seconds for graph in compiled.graphs.made) > 0

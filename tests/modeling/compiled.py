"""Detectors with a body of one convolution a level, with graphs that are run as they are traced, and counted."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from detframe.layers import ConvNorm
from detframe.modeling import build_detection_model
from detframe.modeling.compiling import compile_model
from tests.modeling.tiny import DENSE, tiny_config

CPU = torch.device("cpu")
DETECTORS = {
    "fcos": {**DENSE, "MODEL.RPN.NAME": "FCOS", "MODEL.FCOS.NUM_CONVS": 1},
    "tood": {**DENSE, "MODEL.RPN.NAME": "TOOD", "MODEL.TOOD.NUM_CONVS": 2},
    "gfl": {**DENSE, "MODEL.RPN.NAME": "GFL", "MODEL.FCOS.NUM_CONVS": 1},
    "retinanet": {**DENSE, "MODEL.RPN.NAME": "RetinaNet", "MODEL.RETINANET.NUM_CONVS": 1},
    "faster_rcnn": {
        "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 16,
        "MODEL.RPN.PRE_NMS_TOP_N_TRAIN": 50,
        "MODEL.RPN.POST_NMS_TOP_N_TRAIN": 20,
    },
}
# few of many, at random
SAMPLED = ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 16, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8)
POINTS = {"MODEL.KEYPOINT_ON": True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 2}
EFPN = {
    "MODEL.BACKBONE.CONV_BODY": "R-18-EFPN",
    "MODEL.EFPN.WIDTH": 8,
    "MODEL.RPN.FINEST_LEVEL": "p2",
    "MODEL.ROI_HEADS.NAME": "ExtendedROIHeads",
    "MODEL.EFPN.SEPARATE_HEAD": True,
}
# Other second stages
SECOND = {
    "cascade": {**DETECTORS["faster_rcnn"], "MODEL.ROI_HEADS.NAME": "CascadeROIHeads"},
    "keypoint_rcnn": {**DETECTORS["faster_rcnn"], **POINTS, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": (8,)},
    "efpn": {**DETECTORS["faster_rcnn"], **EFPN},
    "c4": {
        **DETECTORS["faster_rcnn"],
        "MODEL.BACKBONE.CONV_BODY": "R-18-C4",
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeads",
        "MODEL.RPN.ANCHOR_SIZES": ((32, 64),),
    },
}


class Body(nn.Module):
    """One convolution a level."""

    def __init__(self, strides, channels=16):
        super().__init__()
        self.strides, self.out_channels = dict(strides), channels
        self.convs = nn.ModuleList(ConvNorm(3, channels, 3, norm="FrozenBN", relu=True) for _ in strides)

    def forward(self, x):
        levels = zip(self.convs, self.strides.items(), strict=True)
        return {name: conv(F.avg_pool2d(x, stride, ceil_mode=True)) for conv, (name, stride) in levels}


class Counter:
    """A backend that counts the graphs that it is given, and runs them as they are."""

    def __init__(self):
        self.graphs, self.operations = 0, set()

    def __call__(self, graph, inputs):
        self.graphs += 1
        self.operations |= {str(node.target) for node in graph.graph.nodes}
        return graph.forward


def made(name, *opts):
    torch.manual_seed(0)
    model = build_detection_model(tiny_config({**DETECTORS, **SECOND}[name], *opts))
    if name != "efpn":
        model.backbone = Body(model.backbone.strides, model.backbone.out_channels)
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

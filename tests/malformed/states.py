"""A tiny trained detector, its tensors replaced by what cannot be weights, and files written with them."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detframe.checkpoint import describe
from detframe.config import ConfigNode, get_cfg
from detframe.modeling import build_detection_model
from tests.engine.fakes import METADATA
from tests.malformed.mutations import clear

TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.NUM_CLASSES": 2,
    "MODEL.BACKBONE.CONV_BODY": "R-18-FPN",
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.FPN.OUT_CHANNELS": 4,
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 4,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 2,
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.MAX_SIZE_TEST": 64,
}


def tiny_config() -> ConfigNode:
    """The config of a Faster R-CNN of a few thousand parameters."""
    cfg = get_cfg()
    cfg.merge_from_list([word for item in TINY.items() for word in item])
    return cfg


def tiny_checkpoint() -> dict[str, Any]:
    """What training saves of such a detector; its config has only the keys that matter, so that it is read fast."""
    cfg = tiny_config()
    torch.manual_seed(0)
    model = build_detection_model(cfg)
    meta = {**describe(cfg, METADATA), "keypoint_names": [], "iteration": 7, "metrics": {"bbox/AP": 12.5}}
    lines = (f"{key}: {value}\n" for key, value in TINY.items())
    meta["config"] = "".join(nested(line) for line in lines)
    return {"model": OrderedDict(model.state_dict()), "meta": meta}


def nested(line: str) -> str:
    """ "A.B: 1" as "A: {B: 1}"."""
    key, _, value = line.strip().partition(": ")
    *sections, last = key.split(".")
    return "".join(f"{section}: {{" for section in sections) + f"{last}: {value}" + "}" * len(sections) + "\n"


def torch_file(content: Any, path: Path, legacy: bool = False) -> None:
    """`torch.save`, in the layout before PyTorch 1.6 where `legacy`."""
    clear(path)
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)


def pickle_file(content: Any, path: Path) -> None:
    """A pickle of arrays, as Detectron and detectron2 write them."""
    clear(path)
    path.write_bytes(pickle.dumps(as_arrays(content), protocol=2))


def as_arrays(content: Any) -> Any:
    """Nested dicts with arrays in place of tensors."""
    if type(content) is dict and content.get("model") is not content:
        return {key: as_arrays(value) for key, value in content.items()}
    return content.numpy() if type(content) is Tensor and _as_numpy(content) else content


def _as_numpy(value: Tensor) -> bool:
    small = value.numel() < 10**6 and value.device.type == "cpu"
    return small and value.layout == torch.strided and not value.is_quantized and value.dtype != torch.bfloat16


class Stranger:
    """A class that no checkpoint may name."""


def other_values(value: Tensor) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(name, what makes it) of what may stand in place of a tensor of numbers in a file."""
    halves = value.float() / 2
    yield "nan", lambda: torch.full_like(halves, float("nan"))
    yield "one inf", lambda: halves.clone().index_fill_(0, torch.tensor([0]), float("inf"))
    yield "1e38", lambda: torch.full_like(halves, 1e38)
    yield "as float64 of 1e300", lambda: torch.full_like(halves.double(), 1e300)
    yield "as float16", lambda: halves.half()
    yield "as bfloat16", lambda: halves.bfloat16()
    yield "as int8", lambda: halves.to(torch.int8)
    yield "as int64", lambda: halves.long()
    yield "as bool", lambda: halves > 0
    yield "as complex", lambda: torch.complex(halves, halves)
    yield "sparse", lambda: halves.to_sparse()
    yield "quantized", lambda: torch.quantize_per_tensor(halves, 0.1, 0, torch.qint8)
    yield "on no device", lambda: halves.to("meta")
    yield "a parameter", lambda: nn.Parameter(halves.clone())
    yield "transposed", lambda: halves.t() if halves.ndim == 2 else halves.flip(0)
    yield "flat", lambda: halves.flatten()
    yield "one more dimension", lambda: halves[None]
    yield "without rows", lambda: halves[:0]
    yield "one row more", lambda: torch.cat([halves, halves[:1]])
    yield "a scalar", lambda: torch.tensor(1.0)
    yield "a view of 10**12 numbers", lambda: torch.zeros(1).expand(10**6, 10**6)
    yield "an array", lambda: halves.numpy()
    yield "an array of 64-bit numbers", lambda: halves.double().numpy()
    yield "an array of text", lambda: np.array(["a", "b"])
    yield "None", lambda: None
    yield "a number", lambda: 1.5
    yield "text", lambda: "weights"
    yield "a list", lambda: halves.flatten()[:8].tolist()
    yield "a dict", lambda: {"weight": halves}
    yield "a dict of nothing", dict
    yield "a class", lambda: Stranger
    yield "an object", Stranger

"""The names of weights in maskrcnn-benchmark's catalog: what Detectron published, as addresses or our short names."""

from __future__ import annotations

from typing import Any

from detframe.config.foreign.rules import UntranslatableError

_CATALOG = {
    "ImageNetPretrained/MSRA/R-50": "msra://R-50",
    "ImageNetPretrained/MSRA/R-101": "msra://R-101",
    "ImageNetPretrained/MSRA/R-50-GN": "caffe2://R-50-GN",
    "ImageNetPretrained/MSRA/R-101-GN": "caffe2://R-101-GN",
    "ImageNetPretrained/FAIR/20171220/X-101-64x4d": "caffe2://X-101-64x4d",
}
_DETECTRON = "https://dl.fbaipublicfiles.com/detectron/"
_DETECTRON_BODIES = {
    "ImageNetPretrained/FAIR/20171220/X-101-32x8d": "ImageNetPretrained/20171220/X-101-32x8d.pkl",
}
# Detectron's baselines of December 2017: name in the catalog -> time and code of the run
_DETECTRON_RUNS = {
    "35857197/e2e_faster_rcnn_R-50-C4_1x": "01_33_49.iAX0mXvW",
    "35857345/e2e_faster_rcnn_R-50-FPN_1x": "01_36_30.cUF7QR7I",
    "35857890/e2e_faster_rcnn_R-101-FPN_1x": "01_38_50.sNxI7sX7",
    "36761737/e2e_faster_rcnn_X-101-32x8d-FPN_1x": "06_31_39.5MIHi1fZ",
    "35858791/e2e_mask_rcnn_R-50-C4_1x": "01_45_57.ZgkA7hPB",
    "35858933/e2e_mask_rcnn_R-50-FPN_1x": "01_48_14.DzEQe4wC",
    "35861795/e2e_mask_rcnn_R-101-FPN_1x": "02_31_37.KqyEK4tT",
    "36761843/e2e_mask_rcnn_X-101-32x8d-FPN_1x": "06_35_59.RZotkLKI",
    "37129812/e2e_mask_rcnn_X-152-32x8d-FPN-IN5k_1.44x": "09_35_36.8pzTQKYK",
    "37697547/e2e_keypoint_rcnn_R-50-FPN_1x": "08_42_54.kdzV35ao",
}


def weights(value: str) -> dict[str, Any]:
    """MODEL.WEIGHT with the names of the catalog as addresses, without the file name that FCOS puts after a #."""
    name = value.removeprefix("catalog://")
    if name != value:
        return {"MODEL.WEIGHTS": _of_catalog(name)}
    address, _, fragment = value.partition("#")
    return {"MODEL.WEIGHTS": value if fragment.startswith("sha256=") else address}


def _of_catalog(name: str) -> str:
    if name in _CATALOG:
        return _CATALOG[name]
    if name in _DETECTRON_BODIES:
        return _DETECTRON + _DETECTRON_BODIES[name]
    run = name.removeprefix("Caffe2Detectron/COCO/")
    if run not in _DETECTRON_RUNS:
        raise UntranslatableError(f"MODEL.WEIGHT: catalog://{name} is not in the catalog of maskrcnn-benchmark")
    model, title = run.split("/")
    data = "keypoints_coco_2014_" if "keypoint" in title else "coco_2014_"
    return (
        f"{_DETECTRON}{model}/12_2017_baselines/{title}.yaml.{_DETECTRON_RUNS[run]}/output/train/"
        f"{data}train%3A{data}valminusminival/generalized_rcnn/model_final.pkl"
    )

"""Detectors out of the framework: one graph for images of any size, as ONNX, OpenVINO and PyTorch run it."""

from detframe.export.formats import FORMATS
from detframe.export.graph import OUTPUTS, ExportableDetector, trace
from detframe.export.pipeline import PRECISIONS, TOLERANCES, Plan, export
from detframe.export.report import ExportReport, Tolerance
from detframe.export.validation import validation_data

__all__ = [
    "FORMATS",
    "OUTPUTS",
    "PRECISIONS",
    "TOLERANCES",
    "ExportReport",
    "ExportableDetector",
    "Plan",
    "Tolerance",
    "export",
    "trace",
    "validation_data",
]

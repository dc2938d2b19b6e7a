"""Detectors out of the framework: one graph for images of any size, as ONNX, OpenVINO and PyTorch run it."""

from detframe.export.graph import OUTPUTS, ExportableDetector, trace

__all__ = ["OUTPUTS", "ExportableDetector", "trace"]

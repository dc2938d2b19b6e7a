"""The configs of other programs in detframe's keys: a file for each program, with its keys, its rules and its words."""

from detframe.config.foreign.detectron2 import DETECTRON2
from detframe.config.foreign.fcos import FCOS
from detframe.config.foreign.maskrcnn_benchmark import MASKRCNN_BENCHMARK

# in this order: a file that two of them understand is of the first
PROGRAMS = (MASKRCNN_BENCHMARK, FCOS, DETECTRON2)

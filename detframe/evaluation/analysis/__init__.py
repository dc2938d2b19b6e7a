"""Where a detector fails: thresholds, confusions, error types, the worst images, likely label errors, what to try next.

`analyse` takes ground truth and results of a data set, and gives the numbers; it knows no files and no pictures.
"""

from detframe.evaluation.analysis.advice import curve_advice
from detframe.evaluation.analysis.analyse import analyse
from detframe.evaluation.analysis.types import Analysis

__all__ = ["Analysis", "analyse", "curve_advice"]

"""From predictions to average precision, and to the reason when it is low."""

from detframe.evaluation.coco import COCOEvaluator, build_evaluator, oracle_check
from detframe.evaluation.loop import evaluating, run_evaluation
from detframe.evaluation.lvis import LVISEvaluator
from detframe.evaluation.proposals import ProposalEvaluator
from detframe.evaluation.results import to_coco_results
from detframe.evaluation.table import format_metric
from detframe.evaluation.tt100k import TT100KEvaluator
from detframe.evaluation.voc import VOCEvaluator

__all__ = [
    "COCOEvaluator",
    "LVISEvaluator",
    "ProposalEvaluator",
    "TT100KEvaluator",
    "VOCEvaluator",
    "build_evaluator",
    "evaluating",
    "format_metric",
    "oracle_check",
    "run_evaluation",
    "to_coco_results",
]

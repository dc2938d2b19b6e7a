"""The page that a run leaves: what was trained, how well it works, where it fails, and what to do next."""

from detframe.report.changes import ConfigChange, config_changes
from detframe.report.curves import Curves, run_curves
from detframe.report.facts import RunFacts, run_facts, start_line
from detframe.report.page import write_report
from detframe.report.report import Report, SetReport

__all__ = [
    "ConfigChange",
    "Curves",
    "Report",
    "RunFacts",
    "SetReport",
    "config_changes",
    "run_curves",
    "run_facts",
    "start_line",
    "write_report",
]

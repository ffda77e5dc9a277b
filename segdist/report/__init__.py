"""What a sweep found, read back from MLflow: a leaderboard in the terminal or as JSON, and a page to look at."""

from segdist.report.diagnosis import why_nothing
from segdist.report.differences import print_diff, write_diff
from segdist.report.evaluation import print_checkpoints, print_evaluation
from segdist.report.labels import label_warnings
from segdist.report.leaderboard import Leaderboard, as_json, leaderboard, print_leaderboard
from segdist.report.page import SUMMARY, write_html
from segdist.report.study import print_study, write_study

__all__ = [
    "SUMMARY",
    "Leaderboard",
    "as_json",
    "label_warnings",
    "leaderboard",
    "print_checkpoints",
    "print_diff",
    "print_evaluation",
    "print_leaderboard",
    "print_study",
    "why_nothing",
    "write_diff",
    "write_html",
    "write_study",
]

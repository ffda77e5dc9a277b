"""Every HTML page, with what terminals show of the same: what a sweep found, and what is in a data set."""

from segdist.pages.confirmed import Standing
from segdist.pages.diagnosis import why_nothing
from segdist.pages.differences import print_diff, write_diff
from segdist.pages.evaluation import print_checkpoints, print_evaluation
from segdist.pages.labels import label_warnings
from segdist.pages.leaderboard import Leaderboard, as_json, leaderboard, leaderboard_text, print_leaderboard
from segdist.pages.plan import PLAN, plan_rows
from segdist.pages.report import SUMMARY, write_html
from segdist.pages.study import print_study, write_study

__all__ = [
    "PLAN",
    "SUMMARY",
    "Leaderboard",
    "Standing",
    "as_json",
    "label_warnings",
    "leaderboard",
    "leaderboard_text",
    "plan_rows",
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

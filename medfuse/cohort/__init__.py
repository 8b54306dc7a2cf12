"""Cohorts on the engines that their owners run: a plan made once, what became of it, and the scripts of those engines.

Loads neither torch nor MONAI, but for `make_plan`, which lists the cases.
"""

from medfuse.cohort.plan import Plan, PlannedCase, cases_of, make_plan, read_plan, write_plan
from medfuse.cohort.slurm import slurm_script
from medfuse.cohort.status import PackStatus, Status, status

__all__ = [
    "PackStatus",
    "Plan",
    "PlannedCase",
    "Status",
    "cases_of",
    "make_plan",
    "read_plan",
    "slurm_script",
    "status",
    "write_plan",
]

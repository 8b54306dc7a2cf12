"""Pictures and reports of results."""

from medfuse.regions import region_values
from medfuse.report.degradations import degradation_name
from medfuse.report.estimates import estimate_sentence
from medfuse.report.finding import Finding
from medfuse.report.findings import findings, reading_warnings, restoration_warnings, warnings
from medfuse.report.group import save_group_page
from medfuse.report.html import save_report
from medfuse.report.methods import methods_text
from medfuse.report.qc import save_contact_sheet, save_mosaic, save_preview

__all__ = [
    "Finding",
    "degradation_name",
    "estimate_sentence",
    "findings",
    "methods_text",
    "reading_warnings",
    "region_values",
    "restoration_warnings",
    "save_contact_sheet",
    "save_group_page",
    "save_mosaic",
    "save_preview",
    "save_report",
    "warnings",
]

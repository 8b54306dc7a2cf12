"""Pictures and reports of results."""

from medfuse.report.qc import save_contact_sheet, save_mosaic

__all__ = ["save_contact_sheet", "save_mosaic"]

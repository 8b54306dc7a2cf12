"""What an image says of regions: values, corrections by labels, differences between two time points, tables."""

from medfuse.regions.comparison import compare_regions
from medfuse.regions.intervals import Draws, add_intervals, disagrees
from medfuse.regions.invented import add_invented
from medfuse.regions.partial_volume import PartialVolume, correct_by_labels
from medfuse.regions.table import COLUMNS, dictionary, region_rows, tsv
from medfuse.regions.values import region_values

__all__ = [
    "COLUMNS",
    "Draws",
    "PartialVolume",
    "add_intervals",
    "add_invented",
    "compare_regions",
    "correct_by_labels",
    "dictionary",
    "disagrees",
    "region_rows",
    "region_values",
    "tsv",
]

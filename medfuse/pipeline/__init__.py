"""From files to files: what a case's outputs are, folders of images, and the same bundles called from Python.

The bundles' configs do the wiring; this package holds the first and the last transform of a bundle, and the functions
with which the command line and Python call a bundle in this process.
"""

from medfuse.pipeline.batch import BatchSummary, collect, run_batch
from medfuse.pipeline.bundle import Fusion, export_bundle, load_fusion, require_weights, restore_network, run_bundle
from medfuse.pipeline.case import SaveFusiond
from medfuse.pipeline.describe import DescribeSourcesd, VerifySourcesd, require_own_results
from medfuse.pipeline.estimate import estimate_file, measure_phantom, phantom_sentence
from medfuse.pipeline.facts import DIMENSIONLESS, fidelity, sha256, versions
from medfuse.pipeline.group import write_group_page
from medfuse.pipeline.images import fuse_images, require_all
from medfuse.pipeline.ledger import case_warnings
from medfuse.pipeline.load import LoadSourcesd
from medfuse.pipeline.native import PairSourcesd, RestoreNatived
from medfuse.pipeline.outputs import OUTPUTS, Output, write_outputs
from medfuse.pipeline.regions import DescribeRegionsd, LoadRegionsd, PlaceRegionsd
from medfuse.pipeline.result import CaseResult, SourceAgreement
from medfuse.pipeline.workflow import Workflow, collate_case, fuse, load_workflow

__all__ = [
    "DIMENSIONLESS",
    "OUTPUTS",
    "BatchSummary",
    "CaseResult",
    "DescribeRegionsd",
    "DescribeSourcesd",
    "Fusion",
    "LoadRegionsd",
    "LoadSourcesd",
    "Output",
    "PairSourcesd",
    "PlaceRegionsd",
    "RestoreNatived",
    "SaveFusiond",
    "SourceAgreement",
    "VerifySourcesd",
    "Workflow",
    "case_warnings",
    "collate_case",
    "collect",
    "estimate_file",
    "export_bundle",
    "fidelity",
    "fuse",
    "fuse_images",
    "load_fusion",
    "load_workflow",
    "measure_phantom",
    "phantom_sentence",
    "require_all",
    "require_own_results",
    "require_weights",
    "restore_network",
    "run_batch",
    "run_bundle",
    "sha256",
    "versions",
    "write_group_page",
    "write_outputs",
]

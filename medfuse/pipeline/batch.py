"""Many cases in one process: each by itself, complete or not at all, and none twice where it is done."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from medfuse.bundles import DEFAULT_BUNDLE, case_keys
from medfuse.errors import BundleError, OthersResultsError, known_error
from medfuse.io import is_nifti
from medfuse.io.atomic import atomic_folder
from medfuse.io.modalities import MODALITIES
from medfuse.io.places import input_paths, require_apart
from medfuse.pipeline.describe import require_same_sources
from medfuse.pipeline.failures import failure_message
from medfuse.pipeline.group import write_group_page
from medfuse.pipeline.layout import BidsLayout, Layout
from medfuse.pipeline.ledger import (
    case_warnings,
    clear_failure,
    fingerprint,
    is_done,
    is_ours,
    require_unchanged,
    write_done,
    write_failure,
    write_table,
)
from medfuse.pipeline.provenance import has_results, require_no_twins
from medfuse.pipeline.workflow import Workflow, load_workflow
from medfuse.schema import checked_items


@dataclass
class BatchSummary:
    """What became of the cases of a run.

    Attributes:
        fused: Ids of the cases that were fused.
        skipped: Ids of those that had been fused before.
        failed: Id and message of those that could not be fused.
        warned: Id and warnings of those that were fused, now or before, with any.
    """

    fused: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    warned: dict[str, list[str]] = field(default_factory=dict)


def run_batch(
    cases: Iterable[Mapping[str, Any]],
    out: str | Path,
    *,
    bundle: str = DEFAULT_BUNDLE,
    degradation: Mapping[str, Any] | str | None = None,
    steps: int | None = None,
    device: str | torch.device | None = None,
    suv: str | None = None,
    n4: bool = False,
    nonfinite: str | None = None,
    strict: bool = False,
    overlays: Sequence[str | Path] = (),
    resume: bool = False,
    shard: tuple[int, int] = (1, 1),
    bids: str | Path | None = None,
    fusion_rule: str | None = None,
    replace: bool = False,
) -> BatchSummary:
    """Fuse cases one after the other, with the bundle loaded once.

    A case is written to a temporary folder, which becomes `out/<case>` (of a BIDS dataset `out/sub-X/[ses-Y]`) when all
    is in it, and replaces what an earlier run made there of the same sources. What cannot be fused leaves a record that
    says why, beside the results of an earlier run where there are some, and the next case goes on. At the end
    `out/cases.tsv` and the page over all cases are made of the records in `out`.

    Args:
        cases: Items of a bundle's `datalist`, as `medfuse.io.discover` lists them; one with a "problem" fails with it.
        out: Folder for the results.
        bundle: Name or folder of a bundle.
        degradation: A preset's name, a file or a specification. This and the next seven: see `load_workflow`.
        steps: Number of reverse steps.
        device: Where to compute, see `medfuse.devices.pick_device`.
        suv: SUV of DICOM PETs.
        n4: Remove the bias field of each MRI.
        nonfinite: NaN and infinity in NIfTI: refuse the case, or let them count as 0.
        strict: Refuse a case with a NIfTI whose sform and qform disagree.
        overlays: Files that change keys of the configuration.
        resume: Skip a case if its record says that it was made of the same inputs, configuration, weights and version,
            and its outputs are as they were.
        shard: I and N: only each N-th case from the I-th on, 1 <= I <= N, by sorted ids.
        bids: Folder of the BIDS dataset that the cases are of; `out` then becomes a derivative dataset.
        fusion_rule: How the fused image comes of the restored sources.
        replace: Replace results of other sources under the name of a case, too; else the case fails, and they stay.

    Returns:
        What became of each case.

    Raises:
        MedfuseError: Before any case: ids are not unique, outputs would replace inputs or foreign files, or the bundle
            cannot be loaded.
    """
    out = Path(out)
    keys = case_keys(bundle)
    layout = Layout(out) if bids is None else BidsLayout(out, Path(bids), keys)
    known = sorted(checked_items(cases, keys=keys), key=lambda item: str(item["case"]))
    items = _part(known, shard)
    require_apart(known, out, layout.folder)
    _check_places(items, layout)
    _check_suv(items, suv)
    workflow = load_workflow(
        bundle,
        degradation=degradation,
        steps=steps,
        device=device,
        suv=suv,
        n4=n4,
        nonfinite=nonfinite,
        strict=strict,
        overlays=overlays,
        fusion_rule=fusion_rule,
    )
    layout.prepare()
    summary = BatchSummary()
    try:
        for item in tqdm(items, unit="case", disable=None):
            _run_case(item, workflow, layout, resume=resume, replace=replace, summary=summary)
    finally:
        write_table(out)
        write_group_page(out)
    return summary


def collect(out: str | Path) -> list[dict[str, Any]]:
    """Make `out/cases.tsv` and the page over all cases anew, as after a run in shards, and return the table's rows.

    Raises:
        BundleError: If there is no such folder, or no case in it.
    """
    out = Path(out)
    rows = write_table(out) if out.is_dir() else []
    if not rows:
        raise BundleError("OUT must hold results of `medfuse batch`, got none; check the path.")
    write_group_page(out)
    return rows


def _run_case(
    item: Mapping[str, Any], workflow: Workflow, layout: Layout, *, resume: bool, replace: bool, summary: BatchSummary
) -> None:
    case, started, based_on = str(item["case"]), time.perf_counter(), None
    folder = layout.folder(case)
    home = layout.records(folder)
    try:
        _sweep(folder)
        if "problem" in item:
            raise BundleError(str(item["problem"]))
        based_on = fingerprint(item, workflow.basis, names=layout.basis(item))
        if resume and is_done(folder, home, case, based_on):
            clear_failure(home, case)
            summary.skipped.append(case)
        else:
            require_same_sources(home, item, workflow.writer.source_keys, replace=replace)
            with atomic_folder(folder) as temporary:
                result = workflow(item)
                require_unchanged(item, based_on)
                workflow.write(result, temporary)
                layout.arrange(temporary, item, result.record)
                seconds = time.perf_counter() - started
                write_done(temporary, layout.records(temporary), case, based_on, seconds=seconds)
            summary.fused.append(case)
        if told := case_warnings(home, case):
            summary.warned[case] = told
    except Exception as error:  # of any kind: the next case may be sound
        error = _explained(error, item, based_on)
        summary.failed[case] = failure_message(error, input_paths(item))
        with suppress(OSError):  # there may be no place for the record
            _note_failure(item, error, layout, seconds=time.perf_counter() - started)


def _note_failure(item: Mapping[str, Any], error: Exception, layout: Layout, *, seconds: float) -> None:
    """Write why a case failed: beside its results of an earlier run, or into a folder that then holds nothing else."""
    folder = layout.folder(str(item["case"]))
    home = layout.records(folder)
    if has_results(home, str(item["case"])):
        if not isinstance(known_error(error), OthersResultsError):  # which say nothing of this case
            write_failure(home, item, error, seconds=seconds)
        return
    with atomic_folder(folder) as temporary:
        write_failure(layout.records(temporary), item, error, seconds=seconds)


def _explained(error: Exception, item: Mapping[str, Any], based_on: Mapping[str, Any] | None) -> Exception:
    """Return an error of ours in place of a foreign one whose reason is that inputs changed while they were read."""
    if based_on is None or known_error(error) is not None:
        return error
    try:
        require_unchanged(item, based_on)
    except BundleError as changed:
        return changed
    return error


def _part(items: Sequence[Mapping[str, Any]], shard: tuple[int, int]) -> Sequence[Mapping[str, Any]]:
    """Return the cases of a shard."""
    number, count = shard
    if not 1 <= number <= count:
        raise BundleError(f"A shard must be I/N with 1 <= I <= N, got {number}/{count}; change it.")
    return items[number - 1 :: count]


def _check_places(items: Sequence[Mapping[str, Any]], layout: Layout) -> None:
    """Refuse to replace foreign files."""
    layout.check()
    require_no_twins(layout.folder(str(item["case"])) for item in items)
    for case in (str(item["case"]) for item in items):
        folder = layout.folder(case)
        try:
            free = is_ours(folder, layout.records(folder), case)
        except OSError:  # it may not be looked into
            free = False
        if not free:
            raise BundleError(
                f"The folder of {case} in OUT must be free or of an earlier run, got files; choose another."
            )


def _check_suv(items: Sequence[Mapping[str, Any]], suv: str | None) -> None:
    """Refuse to make SUV of what has no headers to tell how."""
    pets = [key for key, row in MODALITIES.items() if row.has_suv]
    plain = [item["case"] for item in items if any(is_nifti(Path(str(item.get(key, "")))) for key in pets)]
    if plain and suv not in (None, "auto", "none"):
        raise BundleError(
            f"An SUV must be asked for with DICOM PETs only, got NIfTI for {len(plain)} cases, {plain[0]} among them; "
            "leave it out, or fuse them apart."
        )


def _sweep(folder: Path) -> None:
    """Remove what a killed run has left of a case."""
    for path in folder.parent.glob(f".*-{folder.name}"):
        if re.fullmatch(r"\.(?:tmp|old)-[0-9a-f]{12}-" + re.escape(folder.name), path.name):
            shutil.rmtree(path, ignore_errors=True)

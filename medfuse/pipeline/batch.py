"""Many cases in one process: each by itself, complete or not at all, and none twice where it is done."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from medfuse.bundles import DEFAULT_BUNDLE, case_keys
from medfuse.errors import BundleError, MedfuseError, OthersResultsError, StorageError, known_error
from medfuse.io import is_nifti
from medfuse.io.atomic import atomic_folder
from medfuse.io.claims import Claim, claim
from medfuse.io.modalities import MODALITIES
from medfuse.io.pet_sidecar import read_pet_sidecar
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
from medfuse.pipeline.overlap import overlapped
from medfuse.pipeline.provenance import has_results, require_no_twins
from medfuse.pipeline.result import CaseResult
from medfuse.pipeline.workflow import Workflow, load_workflow
from medfuse.progress import bar, line
from medfuse.schema import checked_items


@dataclass
class BatchSummary:
    """What became of the cases of a run.

    Attributes:
        fused: Ids of the cases that were fused.
        skipped: Ids of those that had been fused before.
        failed: Id and message of those that could not be fused.
        warned: Id and warnings of those that were fused, now or before, with any.
        unstored: Ids of those that failed for a disk that is full, or files that may not be touched.
    """

    fused: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    warned: dict[str, list[str]] = field(default_factory=dict)
    unstored: list[str] = field(default_factory=list)


def run_batch(
    cases: Iterable[Mapping[str, Any]],
    out: str | Path,
    *,
    bundle: str = DEFAULT_BUNDLE,
    degradation: Mapping[str, Any] | str | None = None,
    steps: int | None = None,
    device: str | torch.device | None = None,
    suv: str | None = None,
    frames: str | None = None,
    n4: bool = False,
    nonfinite: str | None = None,
    strict: bool = False,
    overlays: Sequence[str | Path] = (),
    resume: bool = False,
    shard: tuple[int, int] = (1, 1),
    bids: str | Path | None = None,
    fusion_rule: str | None = None,
    palette: str | None = None,
    blend: str | None = None,
    workers: int = 1,
    tables: bool = True,
    replace: bool = False,
    reference_region: str | int | None = None,
    uncertainty: str | None = None,
    sr: bool | None = None,
) -> BatchSummary:
    """Fuse cases one after the other, with the bundle loaded once; the next is read while one is computed.

    A case that another process has in hand is left to it, and looked at again at the end.

    A case is written to a temporary folder, which becomes `out/<case>` (of a BIDS dataset `out/sub-X/[ses-Y]`) when all
    is in it, and replaces what an earlier run made there of the same sources. What cannot be fused leaves a record that
    says why, beside the results of an earlier run where there are some, and the next case goes on. At the end
    `out/cases.tsv` and the page over all cases are made of the records in `out`.

    Args:
        cases: Items of a bundle's `datalist`, as `medfuse.io.discover` lists them; one with a "problem" fails with it.
        out: Folder for the results.
        bundle: Name or folder of a bundle.
        degradation: A preset's name, a file or a specification. This and the next eight: see `load_workflow`.
        steps: Number of reverse steps.
        device: Where to compute, see `medfuse.devices.pick_device`.
        suv: SUV of PETs.
        frames: Frames of dynamic PETs, see `medfuse.io.frames`, of cases that choose none themselves.
        n4: Remove the bias field of each MRI.
        nonfinite: NaN and infinity in NIfTI: refuse the case, or let them count as 0.
        strict: Refuse a case with a NIfTI whose sform and qform disagree.
        overlays: Files that change keys of the configuration.
        resume: Skip a case if its record says that it was made of the same inputs, configuration, weights and version,
            and its outputs are as they were.
        shard: I and N: only each N-th case from the I-th on, 1 <= I <= N, by sorted ids.
        bids: Folder of the BIDS dataset that the cases are of; `out` then becomes a derivative dataset.
        fusion_rule: How the fused image comes of the restored sources. This and the next two: see `load_workflow`.
        palette: Colour map of the colour fusion.
        blend: How a palette lies over the anatomy.
        workers: Cases that are read ahead, and as many that are written, while one is computed, each in a thread of its
            own; each takes memory. 0: one thing after another. The results are the same.
        tables: Make table and page; else `collect` does so when all parts are done.
        replace: Replace results of other sources under the name of a case, too; else the case fails, and they stay.
        reference_region: Label or name of the region for SUVR. This and the next two: see `load_workflow`.
        uncertainty: `off`, `fast` or `full`.
        sr: Write the values of regions as a DICOM measurement report, too.

    Returns:
        What became of each case.

    Raises:
        MedfuseError: Before any case: ids are not unique, outputs would replace inputs or foreign files, or the bundle
            cannot be loaded.
    """
    out = Path(out)
    keys = case_keys(bundle)
    layout = Layout(out) if bids is None else BidsLayout(out, Path(bids), keys)
    listed = cases if frames is None else [{f"{keys[1]}_frames": frames, **case} for case in cases]
    known = sorted(checked_items(listed, keys=keys), key=lambda item: str(item["case"]))
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
        palette=palette,
        blend=blend,
        reference_region=reference_region,
        uncertainty=uncertainty,
        sr=sr,
    )
    layout.prepare()
    summary = BatchSummary()
    run = _Run(workflow, layout, resume, replace)
    try:
        with bar(total=len(items), unit="case") as shown:
            for number, case in enumerate(run.cases(items, workers), start=1):
                case.note(summary)
                line(number, len(items), case.name, case.state, case.seconds)
                shown.update()
    finally:
        if tables:
            write_table(out)
            write_group_page(out)
    return summary


def fuse_case(workflow: Workflow, item: Mapping[str, Any], out: str | Path) -> BatchSummary:
    """Fuse one case as `run_batch` does, with a workflow that is loaded; skip it if it is done and unchanged.

    Results of other sources under its name are replaced.

    Args:
        workflow: See `load_workflow`.
        item: The case.
        out: Folder for the results.

    Raises:
        MedfuseError: Before any work: the results would replace foreign files or inputs.
    """
    layout = Layout(Path(out))
    items = checked_items([item], keys=workflow.writer.source_keys)
    require_apart(items, out, layout.folder)
    _check_places(items, layout)
    layout.prepare()
    summary = BatchSummary()
    for case in _Run(workflow, layout, resume=True, replace=True).cases(items, workers=0):
        case.note(summary)
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


@dataclass
class _Case:
    """A case on its way, and what became of it."""

    item: Mapping[str, Any]
    claim: Claim | None = None
    based_on: Mapping[str, Any] | None = None
    batch: dict[str, Any] | None = None
    result: CaseResult | None = None
    state: str = ""
    message: str = ""
    is_unstored: bool = False
    told: list[str] = field(default_factory=list)
    seconds: float = 0.0  # own work, without what is waited for

    @property
    def name(self) -> str:
        return str(self.item["case"])

    def note(self, summary: BatchSummary) -> None:
        """Write into a summary what became of it."""
        if self.state == "failed":
            summary.failed[self.name] = self.message
            if self.is_unstored:
                summary.unstored.append(self.name)
        else:
            (summary.skipped if self.state == "skipped" else summary.fused).append(self.name)
        if self.told:
            summary.warned[self.name] = self.told


@dataclass(frozen=True)
class _Run:
    """The stages of a case: read, computed, written. Each works on until the case is settled, and lets no error out."""

    workflow: Workflow
    layout: Layout
    resume: bool
    replace: bool
    claims: set[Claim] = field(default_factory=set)

    def cases(self, items: Sequence[Mapping[str, Any]], workers: int) -> Iterator[_Case]:
        """Give each case when it is settled; those that another process has in hand come last, and are waited for."""
        elsewhere: list[_Case] = []
        threads = torch.get_num_threads()

        def prepare() -> None:
            torch.set_num_threads(threads)  # each thread has a number of its own, on which last bits may depend

        try:
            for wait in (False, True):
                left = [case.item for case in elsewhere] if wait else items
                stages = (partial(self._read, wait=wait), self._compute, self._write)
                ahead = 0 if wait else workers  # in this thread, a wait can be interrupted
                with closing(overlapped(left, *stages, workers=ahead, prepare=prepare)) as settled:
                    for case in settled:
                        if case.state:
                            yield case
                        else:
                            elsewhere.append(case)
        finally:
            for held in list(self.claims):  # of cases that were read ahead when the run was stopped
                held.release()

    def _read(self, item: Mapping[str, Any], *, wait: bool) -> _Case:
        case = _Case(item)
        with self._stage(case):
            folder = self.layout.folder(case.name)
            home = self.layout.records(folder)
            case.claim = claim(folder, wait=wait)
            if case.claim is None:
                return case
            self.claims.add(case.claim)
            _sweep(folder)
            if "problem" in item:
                raise BundleError(str(item["problem"]))
            case.based_on = fingerprint(item, self.workflow.basis, names=self.layout.basis(item))
            if self.resume and is_done(folder, home, case.name, case.based_on):
                clear_failure(home, case.name)
                case.state = "skipped"
            else:
                require_same_sources(home, item, self.workflow.writer.source_keys, replace=self.replace)
                case.batch = self.workflow.read(item)
        return case

    def _compute(self, case: _Case) -> _Case:
        batch, case.batch = case.batch, None
        if batch is not None:
            with self._stage(case):
                case.result = self.workflow.compute(batch)
        return case

    def _write(self, case: _Case) -> _Case:
        result, case.result = case.result, None
        if case.claim is None:
            return case
        try:
            with self._stage(case):
                folder = self.layout.folder(case.name)
                if result is not None:
                    self._write_result(case, result, folder)
                    case.state = "fused"
                case.told = case_warnings(self.layout.records(folder), case.name)
        finally:
            case.claim.release()
            self.claims.discard(case.claim)
        return case

    def _write_result(self, case: _Case, result: CaseResult, folder: Path) -> None:
        started = time.perf_counter()
        with atomic_folder(folder) as temporary:
            self.workflow.write(result, temporary)
            self.layout.arrange(temporary, case.item, result.record)
            require_unchanged(case.item, case.based_on or {})
            seconds = case.seconds + time.perf_counter() - started
            write_done(temporary, self.layout.records(temporary), case.name, case.based_on or {}, seconds=seconds)

    @contextmanager
    def _stage(self, case: _Case) -> Iterator[None]:
        """Count the seconds of a stage, and note an error of any kind as that of the case: the next may be sound."""
        started = time.perf_counter()
        try:
            yield
        except Exception as error:
            case.seconds += time.perf_counter() - started
            self._fail(case, _explained(error, case.item, case.based_on))
        else:
            case.seconds += time.perf_counter() - started

    def _fail(self, case: _Case, error: Exception) -> None:
        case.state, case.message = "failed", failure_message(error, input_paths(case.item))
        case.is_unstored = isinstance(known_error(error), StorageError)
        with suppress(OSError):  # there may be no place for the record
            _note_failure(case.item, error, self.layout, seconds=case.seconds)


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
    """Refuse to make SUV of what has neither headers nor a sidecar to tell how."""
    if suv in (None, "auto", "none"):
        return
    pets = [key for key, row in MODALITIES.items() if row.has_suv]
    plain = [item["case"] for item in items if any(_tells_no_dose(Path(str(item.get(key, "")))) for key in pets)]
    if plain:
        raise BundleError(
            "An SUV must be asked for with DICOM PETs, or NIfTI whose sidecars tell the dose, got others for "
            f"{len(plain)} cases, {plain[0]} among them; leave it out, or fuse them apart."
        )


def _tells_no_dose(path: Path) -> bool:
    with suppress(MedfuseError, OSError):  # the case says what is wrong
        return is_nifti(path) and not read_pet_sidecar(path).tells_dose
    return False


def _sweep(folder: Path) -> None:
    """Clear away what a killed run has left of a case, and put back what it was about to replace."""
    with os.scandir(folder.parent) as entries:
        ending = f"-{folder.name}"
        names = [entry.name for entry in entries if entry.name.startswith(".") and entry.name.endswith(ending)]
    for name in names:
        if match := re.fullmatch(r"\.(tmp|old)-[0-9a-f]{12}" + re.escape(ending), name):
            path = folder.with_name(name)
            if match[1] == "old" and not folder.exists():
                path.rename(folder)
            else:
                shutil.rmtree(path, ignore_errors=True)

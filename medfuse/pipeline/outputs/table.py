"""What is written of a case: one table, from which file names, clearing, BIDS names and the docs' tables follow."""

from __future__ import annotations

import glob
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medfuse.io import write_json
from medfuse.io.modalities import MODALITIES, title
from medfuse.io.places import DICOM_FOLDER
from medfuse.pipeline.facts import DIMENSIONLESS
from medfuse.pipeline.outputs.dicom import series_of, write_dicom
from medfuse.pipeline.outputs.pictures import write_mosaic, write_preview, write_report
from medfuse.pipeline.outputs.regions import write_dictionary, write_regions
from medfuse.pipeline.outputs.transform import write_affine, write_rigid
from medfuse.pipeline.outputs.volumes import (
    write_color,
    write_deviation,
    write_fused,
    write_fused_deviation,
    write_gate,
    write_invented,
    write_restored,
    write_weight,
)
from medfuse.pipeline.provenance import require_own
from medfuse.pipeline.result import LARGE, CaseResult

_AT_ONCE = 2  # outputs: the report takes about as long as all others together
Write = Callable[[CaseResult, Path], None]
"""Writes one output of a case to its path, whole or not at all; nothing where the case has none."""


@dataclass(frozen=True)
class Output:
    """One output of a case: a row of `OUTPUTS`.

    Texts may hold `{source1}` and `{source2}`, the keys of the sources, such as `mri` and `pet`; `{title1}` and
    `{title2}`, what they are called in a sentence; and `{moving}` and `{reference}`, the keys of the source that was
    brought to the other's grid, and of that other.

    Attributes:
        name: By which it is found in the table.
        ending: What follows `CASE_` in the name of its file; the name of its folder, where it has `parts`.
        write: Writes it.
        unit: Unit of its values, empty where they have none; None for that of the source.
        bids_label: Of `desc-LABEL` in the name of a volume in BIDS; None for what BIDS has no name for.
        description: What it is, in one sentence without a full stop: for the docs, and the sidecar in BIDS.
        source: Number of the source, 0 or 1, whose unit it has, and whose other entities its name in BIDS.
        parts: Of a folder, what in it is ours.
    """

    name: str
    ending: str
    write: Write
    unit: str | None
    bids_label: str | None
    description: str
    source: int = 1
    parts: tuple[str, ...] = ()

    def file(self, record: Mapping[str, Any]) -> str:
        """Return the name of its file, or folder, for the case of a record."""
        return self.ending if self.parts else f"{record['case']}_{_filled(self.ending, record)}"

    def described(self, record: Mapping[str, Any]) -> str:
        """Return its description for the sources of a record."""
        return _filled(self.description, record)

    def written(self, folder: Path, case: str) -> Iterator[Path]:
        """Give what any run may have written of it for a case, whatever its sources were."""
        if self.parts:
            yield from (folder / self.ending / part for part in self.parts)
            return
        ending = re.sub(r"\{\w+\}", "*", glob.escape(self.ending))
        yield from folder.glob(f"{glob.escape(case)}_{ending}")


OUTPUTS: tuple[Output, ...] = (
    Output(
        "dicom", DICOM_FOLDER, write_dicom, "", None,
        "Restored {title2}, fused volume and colour fusion as DICOM series, where a source was DICOM",
        parts=tuple(dict.fromkeys(name for key in MODALITIES for name in series_of(key))),
    ),
    Output(
        "fused", "fused.nii.gz", write_fused, DIMENSIONLESS, "fused",
        "Fusion of {title1} and {title2}; no value is to be measured in it",
    ),
    Output(
        "restored1", "{source1}_restored.nii.gz", partial(write_restored, source=0), None, "restored",
        "Restored {title1}", source=0,
    ),
    Output(
        "restored2", "{source2}_restored.nii.gz", partial(write_restored, source=1), None, "restored",
        "Restored {title2}",
    ),
    Output(
        "deviation1", "{source1}_std.nii.gz", partial(write_deviation, source=0), None, "std",
        "Standard deviation of each voxel of the restored {title1}, where it was asked for", source=0,
    ),
    Output(
        "deviation2", "{source2}_std.nii.gz", partial(write_deviation, source=1), None, "std",
        "Standard deviation of each voxel of the restored {title2}, where it was asked for",
    ),
    Output(
        "invented1", "{source1}_invented.nii.gz", partial(write_invented, source=0), None, "invented",
        "Restored {title1} less what its data alone say, where the deviation was asked for", source=0,
    ),
    Output(
        "invented2", "{source2}_invented.nii.gz", partial(write_invented, source=1), None, "invented",
        "Restored {title2} less what its data alone say, where the deviation was asked for",
    ),
    Output(
        "fused_deviation", "fused_std.nii.gz", write_fused_deviation, DIMENSIONLESS, "fusedstd",
        "Standard deviation of each voxel of the fused image, where it was asked for",
    ),
    Output(
        "gate", "{source2}_gate.nii.gz", write_gate, "0 to 1", "gate",
        "Share of its data alone in the {title2}, where it was restored on its own grid and a deviation was asked for",
    ),
    Output("weight", "weight.nii.gz", write_weight, "0 to 1", "weight", "Weight of the {title1} in the fusion"),
    Output(
        "fused_rgb", "fused_rgb.nii.gz", write_color, "RGB, 8 bit", "fusedrgb",
        "{title1} as lightness and {title2} as hue, or a palette over the structure, for the eye",
    ),
    Output(
        "rigid", "{moving}_to_{reference}.tfm", write_rigid, "mm, LPS", None,
        "Rigid registration, where there was one: maps points",
    ),
    Output(
        "affine", "from-{moving}_to-{reference}_mode-image_xfm.txt", write_affine, "mm, LPS", None,
        "The same for tools that resample images: its inverse as an affine",
    ),
    Output(
        "regions", "regions.tsv", write_regions, None, None,
        "Values of the {title2} in each region, given and restored, in the form of BIDS",
    ),
    Output("regions_dictionary", "regions.json", write_dictionary, "", None, "What the columns of that table are"),
    Output("mosaic", "mosaic.png", write_mosaic, "", None, "Three planes of everything, colour bars with units"),
    Output(
        "preview", "preview.jpg", write_preview, "", None,
        "Axial plane of {title1}, {title2} and colour fusion, for the page over all cases",
    ),
    Output("report", "report.html", write_report, "", None, "One page that opens offline"),
)  # fmt: skip
"""All outputs of a case; its record follows."""


def write_outputs(
    result: CaseResult, folder: Path, outputs: Sequence[Output] = OUTPUTS, *, replace: bool = False
) -> None:
    """Write outputs of a case into a folder, its record last: a case with a record is complete.

    What an earlier run wrote of the case goes first. Outputs are written two at a time, those of a large case one; the
    report, which takes the longest, beside the others: packing and drawing leave the interpreter to each other for most
    of their time.

    Args:
        result: The case.
        folder: Where to write.
        outputs: What to write beside the record.
        replace: Replace the results of other sources under the same name, too.

    Raises:
        OthersResultsError: The folder holds such results, and they are not to be replaced.
    """
    require_own(folder, result.case, {k: s["sha256"] for k, s in result.record["sources"].items()}, replace=replace)
    clear(folder, result.case, outputs)
    begun = sorted(outputs, key=lambda output: output.write is not write_report)
    at_once = 1 if result.fused.numel() > LARGE else _AT_ONCE
    with ThreadPoolExecutor(at_once, "medfuse-output") as pool:
        written = [pool.submit(output.write, result, folder / output.file(result.record)) for output in begun]
        try:
            wait(written, return_when=FIRST_EXCEPTION)
        finally:
            pool.shutdown(cancel_futures=True)  # what fails is told once what is being written beside it has ended
        for one in written:
            if not one.cancelled():
                one.result()
    write_json(folder / f"{result.case}.json", result.record)


def clear(folder: Path, case: str, outputs: Sequence[Output] = OUTPUTS) -> None:
    """Remove what an earlier run wrote of a case, its record first: it may be of other data, even another patient.

    Args:
        folder: Of the case.
        case: Its name.
        outputs: What is removed beside all that is in the table.
    """
    (folder / f"{case}.json").unlink(missing_ok=True)
    for output in (*OUTPUTS, *outputs):
        for path in output.written(folder, case):
            if output.parts:
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        if output.parts:
            with suppress(OSError):  # it is not there, or holds what is not ours
                (folder / output.ending).rmdir()


def _filled(text: str, record: Mapping[str, Any]) -> str:
    """Put the names of the sources of a record into a text."""
    source1, source2 = record["sources"]
    reference = record["reference"]["source"]
    return text.format(
        source1=source1,
        source2=source2,
        title1=title(source1),
        title2=title(source2),
        reference=reference,
        moving=source2 if reference == source1 else source1,
    )

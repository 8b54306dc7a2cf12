"""Where a batch puts its cases: a folder for each with our names, or a BIDS derivative dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfuse.errors import BundleError
from medfuse.io import write_json
from medfuse.io.derivative import (
    DESCRIPTION,
    EXTRAS,
    case_folder,
    check_dataset,
    derivative_name,
    source_uri,
    write_dataset,
)
from medfuse.io.modalities import DEFAULT_PAIR, modality, title
from medfuse.pipeline.outputs import OUTPUTS
from medfuse.transforms import BIAS_FIELD


@dataclass(frozen=True)
class Layout:
    """A folder for each case, `out/CASE/`, which holds all that is known of it.

    Attributes:
        out: Folder for the results.
    """

    out: Path

    def folder(self, case: str) -> Path:
        """Return the folder of a case, which is replaced as a whole."""
        return self.out / case

    def records(self, folder: Path) -> Path:
        """Return where the records of a case lie, of its folder or the temporary one."""
        return folder

    def check(self) -> None:
        """Raise unless this layout can be written to `out`.

        Raises:
            BundleError: If a dataset is there that this would spoil.
        """
        if (self.out / DESCRIPTION).exists():
            raise BundleError("OUT must not be a BIDS dataset unless the input is one, got one; choose another folder.")

    def prepare(self) -> None:
        """Write what is about all cases, before the first."""
        self.out.mkdir(parents=True, exist_ok=True)

    def basis(self, item: Mapping[str, Any]) -> list[str]:
        """Return what names and sidecars depend on, beside the contents of the inputs."""
        return []

    def arrange(self, folder: Path, item: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Bring the outputs of a case, written into a folder under our names, into this layout."""


@dataclass(frozen=True)
class BidsLayout(Layout):
    """A BIDS derivative dataset; see `medfuse.io.derivative`.

    Attributes:
        root: Folder of the BIDS dataset that the cases are of.
        keys: Of the sources.
    """

    root: Path
    keys: tuple[str, str] = DEFAULT_PAIR

    def folder(self, case: str) -> Path:
        """Return the folder of a subject or a session."""
        return self.out / case_folder(case)

    def records(self, folder: Path) -> Path:
        """Return the folder of what BIDS has no name for."""
        return folder / EXTRAS

    def check(self) -> None:
        """Raise if another program's dataset is there."""
        check_dataset(self.out)

    def prepare(self) -> None:
        """Write the files about the dataset."""
        super().prepare()
        write_dataset(self.out, self.root)

    def basis(self, item: Mapping[str, Any]) -> list[str]:
        """Return the URIs of the sources."""
        return [source_uri(item[key], self.root) for key in self.keys]

    def arrange(self, folder: Path, item: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Give the volumes their BIDS names and sidecars; the rest goes to the folder of the records."""
        extras = self.records(folder)
        written = list(folder.iterdir())
        extras.mkdir()
        for path in written:
            path.rename(extras / path.name)
        for output in OUTPUTS:
            volume = extras / output.file(record)
            if output.bids_label is None or not volume.is_file():
                continue
            key, grid = list(record["sources"])[output.source], record["reference"]["source"]
            space = None if key == grid else modality(grid).bids_space
            place = folder / modality(key).bids_folder
            place.mkdir(exist_ok=True)
            stem = derivative_name(item[key], record["case"], desc=output.bids_label, space=space)
            volume.rename(place / f"{stem}.nii.gz")
            unit = record["sources"][key]["unit"] if output.unit is None else output.unit
            sidecar = self._sidecar(key, item, record) | {"Units": unit}
            write_json(place / f"{stem}.json", {"Description": output.described(record), **sidecar})

    def _sidecar(self, key: str, item: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
        """Return what BIDS wants to know of a volume that was made of a source."""
        grid, spacing = record["reference"]["source"], record["reference"]["spacing_mm"]
        own, other = (source_uri(item[k], self.root) for k in sorted(self.keys, key=lambda k: k != key))
        sidecar: dict[str, Any] = {
            "Sources": [own, other],
            "SkullStripped": False,
            "Resolution": f"Grid of the {title(grid)}, {' x '.join(f'{s:.4g}' for s in spacing)} mm",
        }
        if key != grid:
            sidecar["SpatialReference"] = source_uri(item[grid], self.root)
        if modality(key).has_bias_field:
            sidecar["BiasFieldRemoved"] = bool(record["sources"][key].get(BIAS_FIELD))
        return sidecar


def case_homes(out: str | Path) -> list[tuple[str, Path]]:
    """Return the folders under a folder where the records of a case may lie, of either layout, by id and sorted."""
    root = Path(out)
    patterns = ("*", f"sub-*/{EXTRAS}", f"sub-*/ses-*/{EXTRAS}")
    homes = [path for pattern in patterns for path in root.glob(pattern) if path.is_dir()]
    parts = [path.relative_to(root).parts for path in homes]
    return sorted(("_".join(p[:-1] or p), path) for p, path in zip(parts, homes, strict=True))

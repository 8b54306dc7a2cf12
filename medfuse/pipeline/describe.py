"""What a source is: its header is checked and its hash noted before it is read, and the hash holds after."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey, ensure_tuple_rep

from medfuse.errors import BundleError
from medfuse.io import check_nifti_header, is_nifti, open_series, require_one_person, require_volume
from medfuse.io.modalities import DEFAULT_PAIR, MODALITIES
from medfuse.io.nifti import NiftiInfo
from medfuse.pipeline.facts import series_sha256, sha256
from medfuse.pipeline.provenance import has_results, require_no_twins, require_own


class DescribeSourcesd(MapTransform):
    """Check the header of each source, note its hash, `<key>_sha256`, and choose its series where it is DICOM.

    Of a NIfTI, `<key>_placement` notes what its header says of the place, see `medfuse.io.placement`, as JSON.
    A DICOM source is then the tuple of the files of one series: that with the UID `<key>_series` of the case, else the
    only one of the key's modality. Its hash is that of the sorted hashes of its files, and `<key>_files` notes them, as
    one text that MONAI's batches leave as it is, for the headers of DICOM output. DICOM sources must be of one patient,
    whatever is written; `one_study` and `one_frame` note whether they are of one study, and of one frame of reference,
    `patient_differs` what they tell of the patient differently under one number.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        modality: str | Sequence[str | None] | None = None,
        strict: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        """Make the transform.

        Args:
            keys: Keys of the sources' paths.
            modality: DICOM modality of each, such as MR: one for all keys or one for each; None for that of the key in
                `medfuse.io.modalities`, and for any where it is not there.
            strict: Refuse a NIfTI whose sform and qform disagree.
            allow_missing_keys: Pass keys that a case has not.
        """
        super().__init__(keys, allow_missing_keys)
        self.strict = strict
        given = ensure_tuple_rep(modality, len(self.keys))
        self.modalities = tuple(m or _dicom(str(key)) for m, key in zip(given, self.keys, strict=True))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the notes.

        Raises:
            BundleError: If a NIfTI is not there, or a case names a unit for DICOM, whose headers say it.
            ImageError: If a NIfTI cannot be used by its header, or is too large, or a source has a format that is not
                read.
            GeometryError: If the geometry of a NIfTI makes no sense, or, if strict, is not one.
            DicomError: If a DICOM source is not one usable series, or two are of two patients.
        """
        result, found = dict(data), {}
        for key, modality in self.key_iterator(result, self.modalities):
            case, path = result.get("case"), Path(str(result[key]))
            if is_nifti(path):
                if not path.is_file():
                    raise BundleError(f"{key} of case {case} must be a file, got none there; check its path.")
                result[f"{key}_placement"] = json.dumps(_header(path, str(key), self.strict).placement)
                result[f"{key}_sha256"] = sha256(path)
                continue
            require_volume(path)
            found[str(key)] = series = open_series(path, modality=modality, uid=result.get(f"{key}_series"))
            if f"{key}_unit" in result:
                raise BundleError(f"{key}_unit of case {case} must be left to the DICOM headers, got one; remove it.")
            result[f"{key}_sha256"] = series_sha256(series.files)
            result[key] = tuple(str(file) for file in series.files)
            result[f"{key}_files"] = "\0".join(result[key])
        require_one_person(found)
        if len(found) > 1:
            result["one_study"] = len({series.study for series in found.values()}) == 1
            result["one_frame"] = len({series.headers[0].frame_of_reference for series in found.values()}) == 1
            one, *others = (series.person for series in found.values())
            result["patient_differs"] = ", ".join(sorted({word for other in others for word in one.differences(other)}))
        return result


class VerifySourcesd(MapTransform):
    """Raise unless each source still has the hash that `DescribeSourcesd` noted of it: it was read in between."""

    def __init__(self, keys: KeysCollection, *, allow_missing_keys: bool = False) -> None:
        """Make the transform.

        Args:
            keys: Keys of loaded sources.
            allow_missing_keys: Pass keys that a case has not.
        """
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data.

        Raises:
            BundleError: If a file is another now, or gone.
        """
        for key in self.key_iterator(data):
            noted = data.get(f"{key}_files")
            try:
                if noted:
                    digest = series_sha256(str(noted).split("\0"))
                else:
                    digest = sha256(str(data[key].meta[ImageMetaKey.FILENAME_OR_OBJ]))
                same = digest == data[f"{key}_sha256"]
            except OSError:
                same = False
            if not same:
                raise BundleError(
                    f"{key} of case {data.get('case')} must stay as it is while it is read, got other content in the "
                    "meantime; wait until it is complete, and run the case again."
                )
        return dict(data)


def _header(path: Path, key: str, strict: bool) -> NiftiInfo:
    """Return what the header of a NIfTI says; what shows uptake may have several frames."""
    row = MODALITIES.get(key)
    return check_nifti_header(path, strict=strict, dynamic=row is not None and row.has_uptake)


def _dicom(key: str) -> str | None:
    """Return the DICOM modality of a key; None for a key that is no modality, or none of DICOM."""
    return MODALITIES[key].dicom or None if key in MODALITIES else None


def require_same_sources(
    home: Path, item: Mapping[str, Any], keys: Sequence[str] = DEFAULT_PAIR, *, replace: bool = False
) -> None:
    """Raise where results of other images would be replaced, before any work.

    Args:
        home: Where the record of the case lies, or will.
        item: The case, with the paths of its sources.
        keys: Of the sources.
        replace: Do not raise: they are to be replaced.

    Raises:
        MedfuseError: They would, or the sources cannot be read.
    """
    case = str(item["case"])
    if replace or not has_results(home, case):
        return
    described: Callable[[Any], dict[Hashable, Any]] = DescribeSourcesd(keys=keys)
    now = described({key: item[key] for key in item if key in ("case", *keys) or key.endswith("_series")})
    require_own(home, case, {key: now[f"{key}_sha256"] for key in keys})


def require_own_results(
    items: Iterable[Mapping[str, Any]],
    output_dir: str | Path,
    *,
    keys: Sequence[str] = DEFAULT_PAIR,
    replace: bool = False,
) -> None:
    """Raise unless all cases may be written to a folder, for the `run` section of a bundle.

    Args:
        items: The cases.
        output_dir: Where the results go, a folder for each case.
        keys: Of the sources.
        replace: Results of other images may be replaced.

    Raises:
        MedfuseError: Results of other images lie there under the name of a case, or under one that differs from it in
            upper and lower case only, or a source cannot be read.
    """
    cases = list(items)
    homes = [Path(output_dir) / str(item["case"]) for item in cases]
    require_no_twins(homes)
    for home, item in zip(homes, cases, strict=True):
        require_same_sources(home, item, keys, replace=replace)

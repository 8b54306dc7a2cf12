"""Where bundles and presets lie, in a checkout as well as in an installed wheel. Loads neither torch nor MONAI."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from medfuse.errors import BundleError, DegradationError
from medfuse.io.modalities import Modality, pair

DEFAULT_BUNDLE = "pet_mri_fusion"
CONFIG_SUFFIXES = (".json", ".yaml", ".yml")
_MAX_SPEC = 1 << 20  # bytes of a file of a degradation
_MAX_PARTS = 500  # values in it


def share_dir() -> Path:
    """Return the folder that holds `bundles/` and `configs/`.

    Raises:
        BundleError: It is neither beside the package nor in it.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent, package / "_share"):
        if (folder / "bundles").is_dir() and (folder / "configs").is_dir():
            return folder
    raise BundleError("`bundles/` and `configs/` must lie beside or in the package, got neither; install medfuse anew.")


def bundle_names() -> list[str]:
    """Return the names of the bundles."""
    return sorted(p.parent.parent.name for p in (share_dir() / "bundles").glob("*/configs/metadata.json"))


def bundle_dir(name: str) -> Path:
    """Return a bundle's folder: a name of `bundle_names`, or the path of any bundle.

    Raises:
        BundleError: There is no such bundle.
    """
    for folder in (share_dir() / "bundles" / name, Path(name)):
        if os.path.isfile(folder / "configs" / "metadata.json"):  # noqa: PTH113  (false, too, where it cannot be)
            return folder
    raise BundleError(f"the bundle must be one of {bundle_names()} or a bundle's folder, got {name[:100]!r}.")


def bundle_metadata(name: str) -> dict[str, Any]:
    """Return a bundle's metadata.

    Raises:
        BundleError: There is no such bundle, or its metadata are no readable JSON object.
    """
    try:
        metadata: Any = json.loads((bundle_dir(name) / "configs" / "metadata.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        metadata = None
    if not isinstance(metadata, dict):
        raise BundleError("The metadata of a bundle must be a readable JSON object, got another file; repair it.")
    return metadata


def bundle_modalities(name: str) -> tuple[Modality, Modality]:
    """Return the modalities of a bundle's sources 1 and 2, by its metadata; see `medfuse.io.modalities`.

    Raises:
        BundleError: There is no such bundle, or its metadata name no two modalities that can be fused.
    """
    return pair(bundle_metadata(name))


def source_keys(name: str = DEFAULT_BUNDLE) -> tuple[str, str]:
    """Return the keys of a bundle's sources 1 and 2, such as `mri` and `pet`; see `bundle_modalities`."""
    first, second = bundle_modalities(name)
    return first.key, second.key


def case_keys(name: str = DEFAULT_BUNDLE) -> tuple[str, str]:
    """Return the keys of the sources of a bundle that fuses cases, which are volumes; see `source_keys`.

    Raises:
        BundleError: As `bundle_modalities`, or the bundle fuses pairs of 2-D images.
    """
    first, second = bundle_modalities(name)
    if not first.is_volume:
        raise BundleError("the bundle must fuse cases, got one that fuses pairs of images; use `medfuse images`.")
    return first.key, second.key


def require_modalities(name: str, *, suv: str | None = None, n4: bool = False) -> None:
    """Refuse to ask of a bundle what none of its modalities has.

    Args:
        name: Of the bundle.
        suv: SUV that is asked for, one of `medfuse.io.units.CHOICES`.
        n4: Whether a bias field is to be removed.

    Raises:
        BundleError: If no source can have an SUV, or a bias field.
    """
    rows = bundle_modalities(name)
    got = f"got a bundle of {rows[0].title} and {rows[1].title}; leave it out"
    if n4 and not any(row.has_bias_field for row in rows):
        raise BundleError(f"n4 must come with an image that has a bias field, an MRI, {got}.")
    if suv not in (None, "auto", "none") and not any(row.has_suv for row in rows):
        raise BundleError(f"An SUV must be asked for with a PET, {got}.")


def preset_names() -> list[str]:
    """Return the names of the degradation presets."""
    return sorted(p.stem for p in (share_dir() / "configs" / "degradation").glob("*.yaml"))


def preset_path(name: str, bundle: str | None = None) -> Path | None:
    """Return the file of a preset; a bundle's own version of it comes first, by the name of its folder."""
    folder = share_dir() / "configs" / "degradation"
    places = [folder / Path(bundle).resolve().name / f"{name}.yaml"] if bundle else []
    return next((p for p in [*places, folder / f"{name}.yaml"] if p.is_file()), None)


def named_as_preset(spec: Mapping[str, Any]) -> bool:
    """Return whether a specification has the name of a preset and other steps than any version of it.

    It came from a preset, or from the `none` of a bundle, and was changed in part: that name would say what is not so.
    """
    name, folder = str(spec.get("name", "")), share_dir() / "configs" / "degradation"
    versions = [load_spec(path) for path in folder.rglob("*.yaml") if path.stem == name]
    return bool(versions) and all(
        any((spec.get(source) or []) != (version.get(source) or []) for source in ("source1", "source2"))
        for version in versions
    )


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, for mappings in which each key comes once: of two, one would be lost without a word.

    Mappings are not merged (`<<`): a few lines of it fill the memory. Text that is none of what its tag says, such as
    `!!int ""`, is an error of YAML as any other.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Build a value, or say that its text is none of its tag."""
        try:
            return super().construct_object(node, deep)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            what = "a value must be of its tag"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping, or say that a key comes twice."""
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "mappings must not be merged", node.start_mark)
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) < len(names):
            raise yaml.constructor.ConstructorError(None, None, "each key must come once", node.start_mark)
        return super().construct_mapping(node, deep)


def check_overlays(paths: Sequence[str | Path]) -> None:
    """Raise unless all overlays are files that can be one.

    Raises:
        BundleError: One is no file, or of another kind.
    """
    for number, path in enumerate(paths, start=1):
        if not Path(path).is_file() or Path(path).suffix.lower() not in CONFIG_SUFFIXES:
            raise BundleError(f"An overlay must be a YAML or JSON file, got none for number {number}; check its path.")


def load_spec(name: str | Path, bundle: str | None = None) -> dict[str, Any]:
    """Read a degradation specification: a preset by name, or a YAML or JSON file. It is data, and nothing in it is run.

    Args:
        name: Preset or file. A file holds the specification itself, or under the key `degradation`, as overlays do.
        bundle: Bundle whose version of the preset is meant.

    Raises:
        DegradationError: There is no such preset or file, or it holds no mapping of plain values, or too many.
    """
    is_name = str(name).replace("_", "").isalnum()
    path = preset_path(str(name), bundle) if is_name else None
    if path is None and os.path.isfile(name):  # noqa: PTH113  (false, too, for a path that cannot be)
        path = Path(name)
    if path is None:
        raise DegradationError(
            f"a degradation must be one of {preset_names()} or a YAML file, got {str(name)[:100]!r}."
        )
    with path.open("rb") as file:
        content = file.read(_MAX_SPEC + 1)
    if len(content) > _MAX_SPEC:
        raise DegradationError(f"a degradation file must have at most {_MAX_SPEC} bytes, got more in {path.name}.")
    return deepcopy(_spec(content, path.name))


@lru_cache(maxsize=16)
def _spec(content: bytes, name: str) -> dict[str, Any]:
    """Return the specification that a file says; presets are asked for again and again, and YAML is slow."""
    try:
        spec = yaml.load(content.decode("utf-8"), UniqueKeyLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DegradationError(f"a degradation file must be valid YAML, got {name}: {error}.") from error
    spec = spec.get("degradation", spec) if isinstance(spec, dict) else spec
    if not isinstance(spec, dict):
        raise DegradationError(f"a degradation file must hold a mapping, got {name} with {type(spec).__name__}.")
    if _count(spec) > _MAX_PARTS:
        raise DegradationError(f"a degradation file must hold at most {_MAX_PARTS} values, got more in {name}.")
    return spec


def _count(value: Any, so_far: int = 0) -> int:
    """Count values, those behind aliases each time they come, up to where it is too many: a short file may say many."""
    if so_far > _MAX_PARTS:
        return so_far
    so_far += 1
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        so_far = _count(part, so_far)
    return so_far

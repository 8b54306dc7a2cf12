"""Where bundles and presets lie, in a checkout as well as in an installed wheel. Loads neither torch nor MONAI."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from medfuse.errors import BundleError, DegradationError


def share_dir() -> Path:
    """Return the folder that holds `bundles/` and `configs/`."""
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
        if (folder / "configs" / "metadata.json").is_file():
            return folder
    raise BundleError(f"the bundle must be one of {bundle_names()} or a bundle's folder, got {name!r}.")


def bundle_metadata(name: str) -> dict[str, Any]:
    """Return a bundle's metadata."""
    return json.loads((bundle_dir(name) / "configs" / "metadata.json").read_text(encoding="utf-8"))


def preset_names() -> list[str]:
    """Return the names of the degradation presets."""
    return sorted(p.stem for p in (share_dir() / "configs" / "degradation").glob("*.yaml"))


def preset_path(name: str, bundle: str | None = None) -> Path | None:
    """Return the file of a preset; a bundle's own version of it comes first, by the name of its folder."""
    folder = share_dir() / "configs" / "degradation"
    places = [folder / Path(bundle).resolve().name / f"{name}.yaml"] if bundle else []
    return next((p for p in [*places, folder / f"{name}.yaml"] if p.is_file()), None)


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, for mappings in which each key comes once: of two, one would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping, or say that a key comes twice."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) < len(names):
            raise yaml.constructor.ConstructorError(None, None, "each key must come once", node.start_mark)
        return super().construct_mapping(node, deep)


def load_spec(name: str | Path, bundle: str | None = None) -> dict[str, Any]:
    """Read a degradation specification: a preset by name, or a YAML or JSON file.

    Args:
        name: Preset or file. A file holds the specification itself, or under the key `degradation`, as overlays do.
        bundle: Bundle whose version of the preset is meant.

    Raises:
        DegradationError: There is no such preset or file, or it holds no mapping.
    """
    is_name = str(name).replace("_", "").isalnum()
    path = preset_path(str(name), bundle) if is_name else None
    if path is None and Path(name).is_file():
        path = Path(name)
    if path is None:
        raise DegradationError(f"a degradation must be one of {preset_names()} or a YAML file, got {str(name)!r}.")
    try:
        spec = yaml.load(path.read_text(encoding="utf-8"), UniqueKeyLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DegradationError(f"a degradation file must be valid YAML, got {path.name}: {error}.") from error
    spec = spec.get("degradation", spec) if isinstance(spec, dict) else spec
    if not isinstance(spec, dict):
        raise DegradationError(f"a degradation file must hold a mapping, got {path.name} with {type(spec).__name__}.")
    return spec

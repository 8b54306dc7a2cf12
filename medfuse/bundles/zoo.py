"""What the MONAI Model Zoo asks of a bundle beside its configurations: files, metadata, packages, paths and sizes.

The rules are those of the MONAI Bundle Specification and of the zoo's own check (`ci/verify_bundle.py`). The metadata
are held against the keys and types that the zoo's schema `meta_schema_20240725.json` asks for, without the network.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from medfuse.errors import BundleError
from medfuse.io.modalities import pair
from medfuse.io.texts import read_json

REQUIRED_FILES = (
    "LICENSE", "configs/metadata.json", "configs/inference.json", "docs/README.md", "docs/data_license.txt"
)  # fmt: skip
MAX_FILE = 25 * 10**6
"""Bytes of the largest file that the zoo keeps in its repository; larger ones are named in `large_files.yml`."""
MAX_CONFIG = 4 << 20  # bytes
_TEXTS = (
    "schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors",
    "copyright", "intended_use",
)  # fmt: skip
_REQUIRED = (*_TEXTS, "required_packages_version", "changelog", "network_data_format")
_OPTIONAL_TEXTS = ("name", "data_source", "data_type", "image_classes", "label_classes", "pred_classes")
_FIRST = {"monai", "torch", "numpy"}  # their versions have keys of their own
_SHAPE = re.compile(r"\*|[0-9pn*+\-/() ]+")  # any size, or an expression in p and n such as 2**p*n


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes:
        file: Name of the file, within the bundle where it is of one.
        place: Id of the key, such as `train::loss`; empty for the file as a whole.
        message: What must be, and what there is.
    """

    file: str
    place: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.place, self.message) if part)


def check_files(root: Path) -> Iterator[Finding]:
    """Say which files are missing or too large, and where its pages lead out of the bundle."""
    for name in REQUIRED_FILES:
        if not (root / name).is_file():
            yield Finding(name, "", "must be there, got no file")
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name, size = path.relative_to(root).as_posix(), path.stat().st_size
        if size >= MAX_FILE:
            yield Finding(
                name, "", f"must be below {MAX_FILE // 10**6} MB or in large_files.yml, got {size / 1e6:.1f} MB"
            )
    for page in sorted(root.rglob("*.md")):
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8", errors="replace")):
            inside = (page.parent / link).resolve().is_relative_to(root.resolve())
            if "://" not in link and not link.startswith("mailto:") and not inside:
                yield Finding(page.relative_to(root).as_posix(), "", f"a link must stay in the bundle, got {link}")


def check_path(text: str) -> Iterator[str]:
    """Say what is wrong with a text, or an expression of Python after `$`, that names a place on one machine."""
    if not text.startswith("$"):
        found = [text]
    else:
        try:
            tree = ast.parse(re.sub(r"@[\w:#]+", "REFERENCE", text[1:].strip()), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return
        ends = {id(n.right) for n in ast.walk(tree) if isinstance(n, ast.BinOp)}  # root + '/demo'
        ends |= {id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values}
        constants = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in ends)
        found = [n.value for n in constants if isinstance(n.value, str)]
    for value in found:
        if re.match(r"/\w|~|[A-Za-z]:[\\/]|file:|\\\\", value):
            yield f"a path must be relative to the bundle, got {value[:100]}"


def check_metadata(root: Path, modules: Iterable[str] = ()) -> Iterator[Finding]:
    """Hold `configs/metadata.json` against the zoo's schema.

    Args:
        root: The bundle.
        modules: Top-level modules that its configurations name: their packages must be among those required.
    """
    name, path = "configs/metadata.json", root / "configs" / "metadata.json"
    if not path.is_file():
        return
    try:
        metadata = read_json(path, max_bytes=MAX_CONFIG)
    except (OSError, ValueError) as error:
        yield Finding(name, "", f"must be readable JSON, got {one_line(error)}")
        return
    if not isinstance(metadata, dict):
        yield Finding(name, "", f"must be an object, got {type(metadata).__name__}")
        return
    found = [*_keys(metadata), *_formats(metadata), *_packages(metadata, modules)]
    yield from (Finding(name, place, message) for place, message in found)
    try:
        pair(metadata)
    except BundleError as error:
        yield Finding(name, "modalities", f"must be two of medfuse.io.modalities, got others: {error}")


def one_line(error: BaseException) -> str:
    """Return what an error says as one short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _keys(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in _REQUIRED:
        if not metadata.get(key):
            yield key, "must be there, got none"
    types: dict[str, Callable[[Any], bool]] = dict.fromkeys((*_TEXTS, *_OPTIONAL_TEXTS), _is_text)
    types |= dict.fromkeys(("required_packages_version", "changelog"), _is_texts_by_name)
    types |= dict.fromkeys(("eval_metrics", "supported_apps"), lambda value: isinstance(value, dict))
    types["references"] = lambda value: isinstance(value, list) and all(map(_is_text, value))
    for key, fits in types.items():
        missing = key in _REQUIRED and not metadata.get(key)  # told above
        if key in metadata and not missing and not fits(metadata[key]):
            yield key, f"must be of another type, got {type(metadata[key]).__name__}"
    if "optional_packages_version" in metadata:
        yield "optional_packages_version", "must be required_packages_version, got its name of before"
    version, changelog = metadata.get("version"), metadata.get("changelog")
    if isinstance(version, str) and not re.fullmatch(r"\d+\.\d+\.\d+", version):
        yield "version", f"must be three numbers such as 1.0.0, got {version}"
    if isinstance(changelog, dict) and isinstance(version, str) and version not in changelog:
        yield "changelog", "must tell of the version, got others"


def _packages(metadata: Mapping[str, Any], modules: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Check that versions are exact, and that every package whose module a configuration names is required."""
    required = metadata.get("required_packages_version")
    if not isinstance(required, dict):
        return
    for name, version in required.items():
        if not re.fullmatch(r"\d[\w.+!]*", str(version)):
            yield f"required_packages_version::{name}", f"must be one version such as 1.2.3, got {version}"
    known, stated = packages_distributions(), {_normal(name) for name in required}
    for module in sorted(set(modules) - _FIRST):
        names = {_normal(n) for n in known.get(module, ())}
        if names and not names & stated:
            yield "required_packages_version", f"must name {min(names)}, whose module {module} a configuration imports"


def _formats(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Check each `*_data_format`."""
    for key, value in metadata.items():
        if not key.endswith("_data_format"):
            continue
        sides = value if isinstance(value, dict) else {}
        for side in ("inputs", "outputs", *({"post_processed_outputs"} & sides.keys())):
            tensors = sides.get(side)
            if not isinstance(tensors, dict) or not tensors:
                yield f"{key}::{side}", "must be an object with a format for each name, got none"
                continue
            for name, tensor in tensors.items():
                yield from ((f"{key}::{side}::{name}{place}", message) for place, message in _tensor(tensor))


def _tensor(tensor: Any) -> Iterator[tuple[str, str]]:
    if isinstance(tensor, int | float | str | bool):  # a plain value
        return
    if not isinstance(tensor, dict):
        yield "", f"must be an object, got {type(tensor).__name__}"
        return
    fits: dict[str, Callable[[Any], bool]] = {
        "type": _is_text,
        "format": _is_text,
        "num_channels": lambda value: _is_whole(value) and value > 0,
        "spatial_shape": lambda value: isinstance(value, list) and all(map(_is_size, value)),
        "dtype": _is_text,
        "value_range": lambda value: isinstance(value, list) and all(_is_number(v) for v in value),
    }
    for key, right in fits.items():
        if key not in tensor:
            yield f"::{key}", "must be there, got none"
        elif not right(tensor[key]):
            yield f"::{key}", f"must be of another kind, got {tensor[key]!r}"
    if not isinstance(tensor.get("is_patch_data", False), bool):
        yield "::is_patch_data", f"must be true or false, got {tensor['is_patch_data']!r}"
    channels, count = tensor.get("channel_def", {}), tensor.get("num_channels")
    if not _is_texts_by_name(channels):
        yield "::channel_def", "must name each channel, got another type"
    elif channels and type(count) is int and set(channels) != set(map(str, range(count))):
        yield "::channel_def", f"must name channels 0 to {count - 1}, got {', '.join(channels)}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_texts_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return (_is_whole(value) and value > 0) or (isinstance(value, str) and bool(_SHAPE.fullmatch(value)))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

"""Bundles: where they and their presets lie, and what is wrong with one. Loads neither torch nor MONAI."""

from medfuse.bundles.places import (
    UniqueKeyLoader,
    bundle_dir,
    bundle_metadata,
    bundle_names,
    load_spec,
    preset_names,
    preset_path,
    share_dir,
)

__all__ = [
    "UniqueKeyLoader",
    "bundle_dir",
    "bundle_metadata",
    "bundle_names",
    "load_spec",
    "preset_names",
    "preset_path",
    "share_dir",
]

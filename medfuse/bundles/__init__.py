"""Bundles: where they and their presets lie, and what is wrong with one. Loads neither torch nor MONAI."""

from medfuse.bundles.places import (
    CONFIG_SUFFIXES,
    DEFAULT_BUNDLE,
    UniqueKeyLoader,
    bundle_dir,
    bundle_metadata,
    bundle_modalities,
    bundle_names,
    case_keys,
    check_overlays,
    load_spec,
    named_as_preset,
    preset_names,
    preset_path,
    require_modalities,
    share_dir,
    source_keys,
)

__all__ = [
    "CONFIG_SUFFIXES",
    "DEFAULT_BUNDLE",
    "UniqueKeyLoader",
    "bundle_dir",
    "bundle_metadata",
    "bundle_modalities",
    "bundle_names",
    "case_keys",
    "check_overlays",
    "load_spec",
    "named_as_preset",
    "preset_names",
    "preset_path",
    "require_modalities",
    "share_dir",
    "source_keys",
]

"""Files in and out."""

from medfuse.io.atomic import atomic_file, atomic_path, write_json
from medfuse.io.cases import find_cases, require_cases
from medfuse.io.images import Image2D, check_pair, match_folders, read_image, write_image
from medfuse.io.nifti import NiftiReader, check_nifti, write_nifti, write_rgb_nifti

__all__ = [
    "Image2D",
    "NiftiReader",
    "atomic_file",
    "atomic_path",
    "check_nifti",
    "check_pair",
    "find_cases",
    "match_folders",
    "read_image",
    "require_cases",
    "write_image",
    "write_json",
    "write_nifti",
    "write_rgb_nifti",
]

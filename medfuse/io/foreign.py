"""Formats of volumes that medfuse does not read: what each is called, and how it becomes NIfTI.

What a file is shows its name, and where many formats share a suffix, how it begins. A file that begins as DICOM does is
DICOM, whatever its name.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from medfuse.errors import ImageError
from medfuse.io.begin import is_dicom
from medfuse.io.contents import contents

_SIMPLEITK = "SimpleITK.WriteImage(SimpleITK.ReadImage('IN'), 'OUT.nii.gz')"
_NIBABEL = "i = nibabel.load('IN'); nibabel.save(nibabel.Nifti1Image(i.get_fdata(), i.affine), 'OUT.nii.gz')"
_UNPACK = "unpack it first"
_ARRAY = "write it with nibabel.Nifti1Image and the affine that it lacks"
_IMAGE = "convert the series that it was made of with dcm2niix; 2-D images are for `medfuse images`"
_FORMATS = {
    ".mgz": ("a FreeSurfer volume", "mri_convert IN OUT.nii.gz"),
    ".mgh": ("a FreeSurfer volume", "mri_convert IN OUT.nii.gz"),
    ".nrrd": ("NRRD", _SIMPLEITK),
    ".nhdr": ("NRRD", _SIMPLEITK),
    ".mha": ("MetaImage", _SIMPLEITK),
    ".mhd": ("MetaImage", _SIMPLEITK),
    ".gipl": ("GIPL", _SIMPLEITK),
    ".vtk": ("VTK", _SIMPLEITK),
    ".v": ("ECAT", "ecatpet2bids IN --convert (package pypet2bids)"),
    ".mnc": ("MINC", "mnc2nii IN OUT.nii"),
    ".brik": ("AFNI", "3dAFNItoNIFTI -prefix OUT.nii.gz IN"),
    ".head": ("AFNI", "3dAFNItoNIFTI -prefix OUT.nii.gz IN"),
    ".mif": ("MRtrix", "mrconvert IN OUT.nii.gz"),
    ".mih": ("MRtrix", "mrconvert IN OUT.nii.gz"),
    ".par": ("Philips PAR/REC", "dcm2niix IN"),
    ".rec": ("Philips PAR/REC", "dcm2niix IN"),
    ".hv": ("Interfile", "with the tool of the scanner that wrote it, to DICOM"),
    ".npy": ("an array without geometry", _ARRAY),
    ".npz": ("an array without geometry", _ARRAY),
    ".mat": ("an array without geometry", _ARRAY),
    ".zip": ("an archive", _UNPACK),
    ".tar": ("an archive", _UNPACK),
    ".tgz": ("an archive", _UNPACK),
    ".7z": ("an archive", _UNPACK),
    ".bz2": ("a file packed by bzip2", _UNPACK),
    ".xz": ("a file packed by xz", _UNPACK),
    ".zst": ("a file packed by Zstandard", _UNPACK),
    ".png": ("a 2-D image", _IMAGE),
    ".jpg": ("a 2-D image", _IMAGE),
    ".jpeg": ("a 2-D image", _IMAGE),
    ".bmp": ("a 2-D image", _IMAGE),
    ".tif": ("a 2-D image", _IMAGE),
    ".tiff": ("a 2-D image", _IMAGE),
}  # by suffix: what it is, and how it is converted
_PAIR, _NIFTI, _DICOM = (".hdr", ".img"), (".nii", ".nii.gz"), (".dcm", ".dicom", ".ima")
_VOXELS = (".raw", ".img", ".bin", ".dat", ".i")  # as files are called that hold voxels alone
_BARE = (
    "voxels without a header",
    "give the header that lies with it (.hdr, .mhd, .nhdr, .hv), which says what they are, or the DICOM it was made of",
)
_SIZE, _MAGIC = 348, slice(344, 347)  # of the header of Analyze 7.5 and NIfTI-1; bytes that tell one from the other


def foreign_format(path: str | Path) -> tuple[str, str] | None:
    """Return what a file is and how it is converted, or None for NIfTI, DICOM and what is unknown."""
    path = Path(path)
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix not in (*_FORMATS, *_PAIR) or not path.is_file() or _begin(path, 132)[128:] == b"DICM":
        return None
    return _pair(path, suffix) if suffix in _PAIR else _FORMATS[suffix]


def foreign_message(path: str | Path) -> str:
    """Return what to say of a file of a format that is known and not read; nothing of another."""
    if (found := foreign_format(path)) is None:
        return ""
    kind, remedy = found
    return f"{label(Path(path))} must be NIfTI or DICOM, got {kind}; convert it: {remedy}."


def no_image(path: str | Path) -> str | None:
    """Return what a file is that is known and no 2-D image, and what to do with it; None for what is unknown."""
    path = Path(path)
    kind, remedy = "NIfTI", ""
    if not path.is_file():
        return None
    if not path.name.lower().endswith(_NIFTI):
        if (found := foreign_format(path)) is not None:
            kind, remedy = found
        elif is_dicom(path):
            kind = "DICOM"
        else:
            return None
    if remedy == _UNPACK:
        return f"{kind}; {remedy}"
    if remedy == _IMAGE:
        return f"{kind}; put it into a folder, beside others if there are any"
    if remedy == _ARRAY:
        return f"{kind}; write it as npy, with numpy.save"
    convert = f"convert it to NIfTI ({remedy}) and " if remedy else ""
    return f"{kind}, which is no 2-D image; {convert}fuse it with `medfuse fuse`, or write its slices as PNG or npy"


def require_volume(path: str | Path) -> None:
    """Refuse a file of a format that is known and not read, or that is none of what its name says.

    Raises:
        ImageError: If it is one; the message says how to convert it, or what else to do.
    """
    path = Path(path)
    if message := foreign_message(path):
        raise ImageError(message)
    suffix = path.suffix.lower()
    if not path.is_file() or path.name.lower().endswith(_NIFTI) or suffix in _DICOM or _may_be_dicom(path):
        return
    found = contents(path) or (_BARE if suffix in _VOXELS else None)
    if found:
        raise ImageError(f"{label(path)} must be NIfTI or DICOM, got {found[0]}; {found[1]}.")


def _may_be_dicom(path: Path) -> bool:
    try:
        return is_dicom(path)
    except OSError:  # whoever reads it says so
        return True


def require_nifti(path: str | Path) -> None:
    """Refuse a name that is not that of a NIfTI.

    Raises:
        ImageError: If it is another; the message says how to convert what is known.
    """
    if not str(path).lower().endswith(_NIFTI):
        if message := foreign_message(path):
            raise ImageError(message)
        raise ImageError(f"{label(Path(path))} must end in .nii or .nii.gz, got another suffix; rename or convert it.")


def refuse_foreign(folder: str | Path) -> None:
    """Refuse the first file in a folder, or in a folder of it, of a format that is known and not read.

    Raises:
        ImageError: If there is one.
    """
    for path in _files(Path(folder)):
        if message := foreign_message(path):
            raise ImageError(message)


def require_no_nifti(folder: str | Path) -> None:
    """Say why a folder in which no DICOM was found holds none, where its files are of another known kind.

    Raises:
        ImageError: If there is a NIfTI, or a file of a format that is not read.
    """
    for path in _files(Path(folder)):
        if path.name.lower().endswith(_NIFTI):
            raise ImageError(f"A folder must hold a DICOM series, got NIfTI ({label(path)}); name the file itself.")
    refuse_foreign(folder)


def _files(folder: Path) -> Iterator[Path]:
    """Give the files of a folder, and of the folders in it."""
    for path in sorted(p for pattern in ("*", "*/*") for p in folder.glob(pattern)):
        if path.is_file() and not path.name.startswith("."):
            yield path


def _pair(path: Path, suffix: str) -> tuple[str, str] | None:
    """Tell the formats of which the header has a file `.hdr` of its own."""
    packed = ".gz" if path.name.lower().endswith(".gz") else ""
    stem = path.name[: len(path.name) - len(suffix + packed)]
    names = {f"{stem}.hdr{packed}".lower(), f"{stem}.hdr".lower()}
    header = path if suffix == ".hdr" else next((p for p in path.parent.iterdir() if p.name.lower() in names), None)
    if header is None:
        return None
    head = _begin(header, _SIZE)
    if head.lstrip()[:10].upper() == b"!INTERFILE":
        return _FORMATS[".hv"]
    if head[:4] not in (_SIZE.to_bytes(4, "little"), _SIZE.to_bytes(4, "big")):
        return None if suffix == ".img" else ("a header of another format", "dcm2niix from the DICOM it was made of")
    if head[_MAGIC] == b"ni1":
        return "a NIfTI pair (.hdr and .img)", _NIBABEL
    return "Analyze 7.5, which does not tell left from right", f"{_NIBABEL}, once you have checked which side is left"


def _begin(path: Path, count: int) -> bytes:
    """Return the first bytes of a file, unpacked; nothing for one that cannot be read."""
    try:
        with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as file:
            return file.read(count)
    except (OSError, EOFError, zlib.error):
        return b""


def label(path: Path) -> str:
    """Return folder and name of a file, which tell a case without the rest of the path."""
    return "/".join(path.parts[-2:])

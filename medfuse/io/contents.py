"""What a file is by its first bytes, where it is none of what its name says, and how it becomes what it should be."""

from __future__ import annotations

from pathlib import Path

GZIP = ("a file packed by gzip", "call it .nii.gz if it is a NIfTI, else unpack it first")
HEAD = 348
"""Bytes that tell: a header of NIfTI-1."""
_COMES_WITH_A_SERVER = "the download failed: get the file itself, after signing in where that is asked for"
_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a pointer of Git LFS", "get the file itself with `git lfs pull`"),
    (b"/annex/objects/", "a pointer of git-annex", "get the file itself with `git annex get` or `datalad get`"),
    (b"<!doctype html", "a web page", _COMES_WITH_A_SERVER),
    (b"<html", "a web page", _COMES_WITH_A_SERVER),
    (b"<?xml", "XML", _COMES_WITH_A_SERVER),
    (b"{", "JSON", _COMES_WITH_A_SERVER),
    (b"PK\3\4", "a ZIP archive", "unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"BZh", "a file packed by bzip2", "unpack it first"),
    (b"\xfd7zXZ\0", "a file packed by xz", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a file packed by Zstandard", "unpack it first"),
    (b"MATRIX7", "ECAT 7", "call it .v and convert it with ecatpet2bids IN --convert (package pypet2bids)"),
    (b"NRRD000", "NRRD", "call it .nrrd and convert it with SimpleITK"),
    (b"ObjectType", "MetaImage", "call it .mha and convert it with SimpleITK"),
    (b"!INTERFILE", "Interfile", "convert it, with the tool of the scanner that wrote it, to DICOM"),
    (b"\x89HDF\r\n", "HDF5, as of MINC 2 or MATLAB", "convert it with the tool that wrote it"),
    (b"CDF\1", "MINC 1", "convert it with mnc2nii IN OUT.nii"),
    (b"\0\0\0\1", "a FreeSurfer volume", "call it .mgh, or .mgz where it is packed, and convert it with mri_convert"),
    (
        b"\x93NUMPY",
        "an array of NumPy",
        "call it .npy; of a volume, write a NIfTI with nibabel and its affine",
    ),
    (b"\x89PNG\r\n", "a PNG image", "call it .png; 2-D images are for `medfuse images`"),
    (b"\xff\xd8\xff", "a JPEG image", "call it .jpg; 2-D images are for `medfuse images`"),
    (b"II*\0", "a TIFF image", "call it .tif; 2-D images are for `medfuse images`"),
    (b"MM\0*", "a TIFF image", "call it .tif; 2-D images are for `medfuse images`"),
    (b"GIF8", "a GIF image", "export the series that it was made of"),
    (b"%PDF", "a PDF document", "export the series that it was made of"),
    (b"\x1f\x8b", *GZIP),
)  # in small letters where letters may be of any size


def contents(path: str | Path) -> tuple[str, str] | None:
    """Return what a file is by its first bytes, and what to do with it; None for what is unknown or cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return found_in(file.read(HEAD))
    except OSError:
        return None


def found_in(head: bytes) -> tuple[str, str] | None:
    """Return what a file is that begins so, and what to do with it; None for what is unknown.

    Args:
        head: Its first bytes, `HEAD` of them where it has so many.
    """
    if not head:
        return "an empty file, as a copy leaves that was cut short", "copy it again"
    if head[:4] in (HEAD.to_bytes(4, "little"), HEAD.to_bytes(4, "big")) and head[344:347] in (b"n+1", b"ni1"):
        return "a NIfTI that is not packed", "call it .nii"
    if head[128:132] == b"DICM":
        return "DICOM", "call it .dcm, or give its folder"
    for begin, kind, remedy in _BEGINNINGS:
        if head.startswith(begin) or head[:64].strip(b"\xef\xbb\xbf \t\r\n").lower().startswith(begin):
            return kind, remedy
    if not head.strip(b"\0"):
        return "zeros, as a copy leaves that was cut short", "copy it again"
    return None

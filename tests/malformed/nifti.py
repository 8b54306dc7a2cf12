"""Malformed NIfTI. What has no checksum and stays plausible, an affine or a stored value, is not flipped here."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from malformed.corpus import Case, Way, Write, cut, drop, flip, put

SHAPE = (20, 24, 4)
_DTYPE = nib.nifti1.header_dtype
_OPTIONS = ("--out", "OUT", "--aligned", "--steps", "1")


def volume(seed: int) -> np.ndarray:
    """Return a blob in noise."""
    axes = [np.linspace(-1, 1, n) for n in SHAPE]
    r = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
    return (900 * (r < 0.8) + np.random.default_rng(seed).uniform(0, 90, SHAPE)).astype(np.int16)


def image(seed: int) -> nib.Nifti1Image:
    """Return an image with a slope, an intercept, a qform and an sform."""
    result = nib.Nifti1Image(volume(seed), np.diag([2.0, 2.0, 3.0, 1.0]))
    result.header.set_qform(result.affine, code=1)
    result.header.set_slope_inter(0.5, 3.0)
    return result


def _plain(folder: Path) -> None:
    for seed, name in enumerate(("mri", "pet")):
        nib.save(image(seed), folder / f"{name}.nii")


def _packed(folder: Path) -> None:
    for seed, name in enumerate(("mri", "pet")):
        (folder / f"{name}.nii.gz").write_bytes(gzip.compress(image(seed).to_bytes(), 6, mtime=0))


PLAIN = Way(_plain, (("fuse", "--mri", "IN/mri.nii", "--pet", "IN/pet.nii", *_OPTIONS),))
STRICT = Way(_plain, (("fuse", "--mri", "IN/mri.nii", "--pet", "IN/pet.nii", "--strict", *_OPTIONS),))
STATED = Way(_plain, (("fuse", "--mri", "IN/mri.nii", "--pet", "IN/pet.nii", "--pet-unit", "SUV", *_OPTIONS),))
PACKED = Way(_packed, (("fuse", "--mri", "IN/mri.nii.gz", "--pet", "IN/pet.nii.gz", *_OPTIONS),))


def header(name: str = "mri.nii", **fields: Any) -> Write:
    """Return the damage that sets fields of a header."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        view = np.frombuffer(content, _DTYPE, 1)
        for key, value in fields.items():
            view[key] = value
        (folder / name).write_bytes(content)

    return damage


def _bytes(change: Any, name: str = "mri.nii.gz") -> Write:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def _content(change: Any) -> Write:
    """Return the damage to what a gzip file holds."""
    return _bytes(lambda raw: gzip.compress(change(gzip.decompress(raw)), mtime=0))


def _array(make: Any, affine: np.ndarray | None = None) -> Write:
    def damage(folder: Path) -> None:
        result = nib.Nifti1Image(make(volume(0)), np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine)
        nib.save(result, folder / "mri.nii")

    return damage


def _places(place: np.ndarray) -> Write:
    """Return the damage that gives the PET a qform of its own, and so two places (NIfTI-1, methods 2 and 3)."""

    def damage(folder: Path) -> None:
        result = nib.load(folder / "pet.nii")
        result = nib.Nifti1Image(np.asarray(result.dataobj), result.affine, result.header)
        result.header.set_qform(place @ result.affine, code=1)
        nib.save(result, folder / "pet.nii")

    return damage


def _two_places() -> dict[str, np.ndarray]:
    shifted, turned = np.eye(4), np.eye(4)
    shifted[0, 3] = 30
    turned[:2, :2] = [[0, -1], [1, 0]]
    return {"30 mm apart": shifted, "mirrored": np.diag([-1.0, 1, 1, 1]), "turned": turned}


FOREIGN = {
    "NRRD": b"NRRD0005\ntype: short\ndimension: 3\nsizes: 20 24 4\nencoding: raw\n\n" + bytes(3840),
    "MetaImage": b"ObjectType = Image\nNDims = 3\nDimSize = 20 24 4\nElementType = MET_SHORT\n",
    "MGH": struct.pack(">7i", 1, 20, 24, 4, 1, 4, 0) + bytes(4096),
    "ECAT 7": b"MATRIX72v".ljust(1024, b"\0"),
    "TIFF": b"II*\0" + bytes(256),
    "NumPy": b"\x93NUMPY\x01\0" + bytes(256),
    "DICOM": bytes(128) + b"DICM" + bytes(64),
    "a web page": b"<!DOCTYPE html><html><title>Sign in</title></html>",
    "JSON": b'{"message": "Not Found"}',
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4096\n",
    "git-annex": b"/annex/objects/MD5E-s4096--0.nii.gz\n",
    "zeros": bytes(4096),
}


def _of_other_programs() -> Iterator[Case]:
    for name, place in _two_places().items():
        yield Case("NIfTI two places", name, PLAIN, _places(place))
        yield Case("NIfTI two places", f"{name}, strict", STRICT, _places(place))
    for name, content in FOREIGN.items():
        yield Case("NIfTI foreign", name, PLAIN, put("pet.nii", content))
        yield Case("NIfTI foreign", f"{name}, packed", PACKED, put("pet.nii.gz", gzip.compress(content)))
        yield Case("NIfTI foreign", f"{name}, called packed", PACKED, put("pet.nii.gz", content))
    for name, text in {
        "another unit": '{"Units": "Bq/mL"}',
        "two units": '{"Units": "Bq/mL", "Unit": "SUV"}',
        "no object": "[]",
        "cut": '{"Units": "SU',
        "words": '{"Units": "SUV of Mrs X"}',
        "a number": '{"Units": 3}',
    }.items():
        yield Case("NIfTI sidecar", name, STATED, put("pet.json", text))
        if name != "another unit":
            yield Case("NIfTI sidecar", f"{name}, none stated", PLAIN, put("pet.json", text))


def cases() -> Iterator[Case]:
    """Give all cases."""
    yield from _of_other_programs()
    for fraction in np.linspace(0, 0.999, 14):
        yield Case("NIfTI cut", f"pet.nii to {fraction:.1%}", PLAIN, cut("pet.nii", fraction))
        yield Case("NIfTI cut", f"mri.nii.gz to {fraction:.1%}", PACKED, cut("mri.nii.gz", fraction))

    size = len(gzip.compress(image(0).to_bytes(), 6, mtime=0))
    for k, byte in enumerate([*range(10), *np.linspace(10, size - 9, 30).astype(int), *range(size - 8, size)]):
        yield Case("NIfTI gzip", f"bit {k % 8} of byte {byte}", PACKED, flip("mri.nii.gz", int(byte), k % 8))
    for name, change in {
        "no trailer": lambda raw: raw[:-8],
        "garbage behind": lambda raw: raw + b"garbage",
        "zeros behind": lambda raw: raw + bytes(512),
        "twice": lambda raw: raw + raw,
        "a member too many": lambda raw: raw + gzip.compress(bytes(100)),
        "two members": lambda raw: (
            gzip.compress(gzip.decompress(raw)[:999]) + gzip.compress(gzip.decompress(raw)[999:])
        ),
        "not packed": gzip.decompress,
        "packed twice": gzip.compress,
        "empty members": lambda raw: gzip.compress(b"") * 1000 + raw,
        "nothing in it": lambda raw: gzip.compress(b""),
    }.items():
        yield Case("NIfTI gzip", name, PACKED, _bytes(change))
    yield Case("NIfTI gzip", "packed, by a name that is not", PLAIN, _bytes(gzip.compress, "mri.nii"))

    for key, bits in (
        ("sizeof_hdr", 32),
        ("dim", 64),
        ("datatype", 16),
        ("bitpix", 16),
        ("vox_offset", 32),
        ("magic", 32),
    ):
        start = _DTYPE.fields[key][1]
        for bit in range(bits):
            yield Case("NIfTI header bits", f"{key}, bit {bit}", PLAIN, flip("pet.nii", start + bit // 8, bit % 8))

    nan, inf = np.nan, np.inf
    half = {"sform_code": 0}
    geometry: dict[str, dict[str, Any]] = {
        "sform NaN": {"srow_x": (nan, 0, 0, 0)},
        "sform inf": {"srow_y": (0, inf, 0, 0)},
        "offset NaN": {"srow_z": (0, 0, 3, nan)},
        "singular": {"srow_x": (0, 0, 0, 0)},
        "two axes alike": {"srow_y": (2, 0, 0, 0)},
        "nearly flat": {"srow_y": (2, 1e-5, 0, 0)},
        "sheared in plane": {"srow_x": (2, 4, 0, 0)},
        "sheared across": {"srow_x": (2, 0, 9, 0)},
        "voxels of nm": {"srow_x": (1e-6, 0, 0, 0)},
        "voxels of 40 m": {"srow_x": (4e4, 0, 0, 0)},
        "metres": {"xyzt_units": 1},
        "micrometres": {"xyzt_units": 3},
        "no orientation": half | {"qform_code": 0},
        "quaternion too long": half | {"quatern_b": 2},
        "quaternion NaN": half | {"quatern_c": nan},
        "offset of the qform inf": half | {"qoffset_x": inf},
        "qfac 7": half | {"pixdim": (7, 2, 2, 3, 0, 0, 0, 0)},
        "pixdim 0": half | {"pixdim": (1, 0, 2, 3, 0, 0, 0, 0)},
        "pixdim negative": half | {"pixdim": (1, -2, 2, 3, 0, 0, 0, 0)},
        "pixdim NaN": half | {"pixdim": (1, 2, nan, 3, 0, 0, 0, 0)},
        "4-D": {"dim": (4, 20, 24, 2, 2, 1, 1, 1)},
        "2-D": {"dim": (2, 20, 96, 1, 1, 1, 1, 1)},
        "transposed": {"dim": (3, 24, 20, 4, 1, 1, 1, 1), "pixdim": (1, 0, 0, 0, 0, 0, 0, 0), "srow_x": (0, 0, 0, 0)},
        "negative": {"dim": (3, -20, 24, 4, 1, 1, 1, 1)},
        "zero": {"dim": (3, 20, 24, 0, 1, 1, 1, 1)},
        "one slice": {"dim": (3, 20, 24, 1, 1, 1, 1, 1)},
        "rank 0": {"dim": (0, 20, 24, 4, 1, 1, 1, 1)},
        "rank 8": {"dim": (8, 20, 24, 4, 1, 1, 1, 1)},
        "fewer slices": {"dim": (3, 20, 24, 3, 1, 1, 1, 1)},
        "narrower": {"dim": (3, 19, 24, 4, 1, 1, 1, 1)},
    }
    for name, fields in geometry.items():
        for source in ("mri.nii", "pet.nii"):
            yield Case("NIfTI geometry", f"{name} ({source})", PLAIN, header(source, **fields))

    values: dict[str, dict[str, Any]] = {
        "slope NaN": {"scl_slope": nan},
        "slope inf": {"scl_slope": inf},
        "slope negative": {"scl_slope": -0.5},
        "slope 0": {"scl_slope": 0},
        "slope 1e38": {"scl_slope": 1e38},
        "intercept NaN": {"scl_inter": nan},
        "intercept inf": {"scl_inter": -inf},
        "intercept 3e38": {"scl_inter": 3e38},
        "bits of another type": {"bitpix": 64},
        "uint8": {"datatype": 2, "bitpix": 8},
        "float64": {"datatype": 64, "bitpix": 64},
        "complex": {"datatype": 32, "bitpix": 64},
        "colours": {"datatype": 128, "bitpix": 24},
        "one bit": {"datatype": 1, "bitpix": 1},
        "type 777": {"datatype": 777},
        "type -4": {"datatype": -4},
        "long double": {"datatype": 1536, "bitpix": 128},
    }
    for name, fields in values.items():
        yield Case("NIfTI values", name, PLAIN, header("pet.nii", **fields))
    for name, make in {
        "some NaN": lambda v: np.where(v > 950, nan, v).astype(np.float32),
        "all NaN": lambda v: np.full(SHAPE, nan, np.float32),
        "one inf": lambda v: np.where(v == v.max(), inf, v).astype(np.float32),
        "beyond float32": lambda v: v * 1e300,
        "constant": lambda v: np.full(SHAPE, 7, np.int16),
        "complex values": lambda v: v.astype(np.complex64),
        "no voxel": lambda v: v[:0],
    }.items():
        yield Case("NIfTI values", name, PLAIN, _array(make))

    def link(folder: Path) -> None:
        (folder / "mri.nii").unlink()
        (folder / "mri.nii").symlink_to("mri.nii")

    def pipe(folder: Path) -> None:
        (folder / "mri.nii").unlink()
        os.mkfifo(folder / "mri.nii")

    def tree(folder: Path) -> None:
        (folder / "mri.nii").unlink()
        (folder / "mri.nii").mkdir()

    def extension(size: int) -> Write:
        def damage(folder: Path) -> None:
            raw = bytearray((folder / "mri.nii").read_bytes())
            raw[348] = 1
            raw[352:352] = struct.pack("<ii", size, 6) + bytes(8)
            raw[108:112] = struct.pack("<f", 368)
            (folder / "mri.nii").write_bytes(raw)

        return damage

    files: dict[str, Write] = {
        "absent": drop("mri.nii"),
        "empty": put("mri.nii", b""),
        "text": put("mri.nii", "no image\n" * 99),
        "zeros": put("mri.nii", bytes(9000)),
        "a PNG": put("mri.nii", b"\x89PNG\r\n\x1a\n" + bytes(999)),
        "a link to itself": link,
        "a pipe": pipe,
        "a folder": tree,
        "of a pair": header(magic=b"ni1"),
        "no magic": header(magic=b""),
        "NIfTI-2 by size": header(sizeof_hdr=540),
        "text with NUL and quotes": header(
            descrip=b"\0\xff<script>'\"", aux_file=b"../../etc/passwd", db_name=b"\x1b[2J"
        ),
        **{f"extension of {n} bytes": extension(n) for n in (0, -16, 8, 16, 2**31 - 16, 7)},
    }
    for name, damage in files.items():
        yield Case("NIfTI files", name, PLAIN, damage)

    bombs: dict[str, Any] = {
        "30000^3": ((3, 30000, 30000, 30000), 16, 0),
        "2^31 slices of 1": ((3, 1, 1, 32767, 32767), 16, 0),
        "6 GiB of float32 from bytes": ((3, 1200, 1200, 1200), 2, 0),
        "8 GiB": ((3, 2000, 2000, 1000), 4, 0),
        "256 MiB of zeros": ((3, 512, 512, 1024), 2, 256 << 20),
        "1 GiB behind the data": (None, 4, 1 << 30),
    }
    for name, (dim, datatype, tail) in bombs.items():
        yield Case("NIfTI bombs", name, PACKED, _bomb(dim, datatype, tail))


def _bomb(dim: tuple[int, ...] | None, datatype: int, tail: int) -> Write:
    def damage(folder: Path) -> None:
        raw = bytearray(image(0).to_bytes())
        if dim is not None:
            view = np.frombuffer(raw, _DTYPE, 1)
            view["dim"] = (*dim, *[1] * (8 - len(dim)))
            view["datatype"], view["bitpix"] = datatype, nib.nifti1.data_type_codes.dtype[datatype].itemsize * 8
            del view
            raw = raw[:352]
        with gzip.open(folder / "mri.nii.gz", "wb", compresslevel=1) as file:
            file.write(raw)
            for _ in range(tail >> 24):
                file.write(bytes(1 << 24))

    return damage

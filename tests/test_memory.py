"""How much memory a case takes: by the header before anything is read, and by the voxel when it is fused."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medfuse.errors import ImageError
from medfuse.io import NiftiReader, check_nifti

MEASURE = """
import sys
from medfuse.cli import main
code = main(sys.argv[1:])
from medfuse.pipeline.ledger import peak_memory
print("peak", peak_memory() << 20)
raise SystemExit(code)
"""


def measured(*arguments: object) -> tuple[int, int, str]:
    """Run the command line in a process of its own; return its exit code, its peak memory in bytes and what it said."""
    words = [str(word) for word in arguments]
    done = subprocess.run([sys.executable, "-c", MEASURE, *words], capture_output=True, text=True, check=False)
    return done.returncode, int(done.stdout.split("peak ")[-1]), done.stderr


def bomb(path: Path, shape: tuple[int, int, int]) -> Path:
    """Write a small file that is a NIfTI of zeros, whole and sound."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header["magic"], header["vox_offset"] = b"n+1", 352
    header.set_sform(np.eye(4), 1)
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    with path.open("wb") as file:
        file.write(pack.compress(header.binaryblock + bytes(4)))
        for _ in range(2 * int(np.prod(shape)) >> 20):
            file.write(pack.compress(bytes(1 << 20)))
        file.write(pack.flush())
    return path


def test_the_peak_of_a_program_is_its_own_and_not_that_of_whoever_started_it():
    """Linux hands ru_maxrss on when a program starts another."""
    held = np.ones(1 << 27)  # 1 GiB
    program = "from medfuse.pipeline.ledger import peak_memory; print(peak_memory())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 10 < int(done.stdout) < held.nbytes >> 20


def test_a_small_file_that_becomes_large_is_refused_by_its_header(tmp_path):
    path = bomb(tmp_path / "pet.nii.gz", (1024, 1024, 512))
    assert path.stat().st_size < 2 << 20
    code, peak, said = measured("fuse", "--pet", path, "--mri", path, "--aligned", "--out", tmp_path / "out")
    assert code == 2
    assert "must decode to at most 1073741824 bytes as float32, got (1024, 1024, 512) voxels" in said
    assert peak < 1.2 * 2**30  # of which the libraries take half


def test_a_volume_is_read_without_a_copy_in_another_type(tmp_path):
    """Stored as scaled int16, float64 when scaled: read in slabs, only the float32 volume takes memory."""
    import tracemalloc

    path = tmp_path / "a.nii.gz"
    volume = np.arange(256 * 256 * 128, dtype=np.int16).reshape(256, 256, 128)
    image = nib.Nifti1Image(volume, np.eye(4))
    image.header.set_slope_inter(0.37, -5)
    image.to_filename(path)
    tracemalloc.start()
    read, _ = NiftiReader().get_data(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(read, nib.load(path).get_fdata().astype(np.float32))
    assert peak < 4 * volume.size + (80 << 20)  # float32, and slabs of 32 MiB; all in float64 would be 64 MiB more


def test_the_size_is_what_the_volume_is_as_float32_however_it_is_stored(tmp_path):
    for dtype in (np.uint8, np.float64):
        nib.Nifti1Image(np.zeros((8, 8, 8), dtype), np.eye(4)).to_filename(tmp_path / "a.nii")
        check_nifti(tmp_path / "a.nii", max_bytes=4 * 512)
        with pytest.raises(ImageError, match=re.escape("got (8, 8, 8) voxels, 2048 bytes")):
            check_nifti(tmp_path / "a.nii", max_bytes=4 * 512 - 1)


def head(path: Path, shape: tuple[int, int, int], spacing: tuple[float, float, float], top: float) -> Path:
    axes = [np.linspace(-1, 1, n) for n in shape]
    r = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij", sparse=True)))
    noise = np.random.default_rng(0).normal(0, 0.02 * top, shape)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-s * (n - 1) / 2 for n, s in zip(shape, spacing, strict=True)]
    nib.save(nib.Nifti1Image((top * (r < 0.9) * (1 + 0.3 * np.cos(8 * r)) + noise).astype(np.float32), affine), path)
    return path


@pytest.mark.full
def test_a_voxel_of_the_mri_takes_bounded_memory(tmp_path):
    """Reading, registration, resampling, restoration, report and writing: what more slices of one size take.

    512 x 512 x 300 voxels stay below 4 GB where a voxel takes at most 43 bytes, beside 0.6 GB for the libraries.
    """
    pet = head(tmp_path / "pet.nii.gz", (64, 64, 40), (4, 4, 4), 5.0)
    peaks = []
    for slices in (120, 480):
        mri = head(tmp_path / f"mri{slices}.nii.gz", (192, 192, slices), (1.2, 1.2, 160 / slices), 900.0)
        sources = ("--pet", pet, "--mri", mri, "--pet-unit", "SUV", "--degradation", "noise", "--steps", 1)
        code, peak, said = measured("fuse", *sources, "--out", tmp_path / f"out{slices}")
        assert code == 0, said
        peaks.append(peak)
    assert (peaks[1] - peaks[0]) / (192 * 192 * 360) < 43, peaks

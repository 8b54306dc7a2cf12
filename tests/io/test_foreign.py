"""Files that are neither NIfTI nor DICOM: each is named, with the way out, wherever it is given."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medfuse import cli
from medfuse.errors import BundleError, ImageError, MedfuseError
from medfuse.io import (
    DicomReader,
    VolumeReader,
    check_nifti,
    discover,
    find_cases,
    match_folders,
    match_manifest,
    read_image,
)
from medfuse.io.foreign import foreign_format, require_no_nifti, require_volume
from medfuse.pipeline import DescribeSourcesd, restore_network

ARRAY = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)
AFFINE = np.diag([2.0, 2, 3, 1])


def make(folder, name):
    """Write a real file of a format, or at least its first bytes."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes)
    if suffix in (".mgz", ".mgh"):
        nib.save(nib.MGHImage(ARRAY, AFFINE), path)
    elif suffix in (".nrrd", ".mha"):
        sitk.WriteImage(sitk.GetImageFromArray(ARRAY), path)
    elif path.stem == "analyze":
        nib.save(nib.AnalyzeImage(ARRAY, AFFINE), path.with_suffix(".img"))
    elif suffix in (".hdr", ".img"):
        nib.save(nib.Nifti1Pair(ARRAY, AFFINE), path.with_suffix(".img"))
    elif suffix == ".v":
        path.write_bytes(b"MATRIX72v".ljust(1024, b"\0"))
    elif suffix == ".nii.gz":
        nib.save(nib.Nifti1Image(ARRAY, AFFINE), path)
    else:
        path.write_bytes(b"x" * 400)
    return path


NAMES = {
    "pet.mgz": ("a FreeSurfer volume", "mri_convert"),
    "pet.nrrd": ("NRRD", "SimpleITK.WriteImage"),
    "pet.mha": ("MetaImage", "SimpleITK.WriteImage"),
    "pet.hdr": ("a NIfTI pair", "nibabel.save"),
    "pet.img": ("a NIfTI pair", "nibabel.save"),
    "analyze.hdr": ("Analyze 7.5", "which side is left"),
    "analyze.img": ("Analyze 7.5", "which side is left"),
    "pet.v": ("ECAT", "ecatpet2bids"),
    "PET.MGH": ("a FreeSurfer volume", "mri_convert"),
    "pet.mnc": ("MINC", "mnc2nii"),
    "pet.nii.zip": ("an archive", "unpack"),
    "pet.npy": ("an array without geometry", "Nifti1Image"),
    "pet.png": ("a 2-D image", "medfuse images"),
}


@pytest.mark.parametrize("name", NAMES)
def test_each_format_has_its_own_sentence_everywhere(tmp_path, name, capsys):
    path = make(tmp_path, name)
    kind, remedy = NAMES[name]
    sentence = f"must be NIfTI or DICOM, got {kind}.*{remedy}"
    mri = make(tmp_path, "mri.nii.gz")
    for call in (
        lambda: require_volume(path),
        lambda: check_nifti(path),
        lambda: VolumeReader().get_data(VolumeReader().read(path)),
        lambda: DescribeSourcesd(keys=["mri", "pet"], modality=["MR", "PT"])({"mri": str(mri), "pet": str(path)}),
    ):
        with pytest.raises(ImageError, match=sentence):
            call()
    for option, unit in (("--pet", {}), ("--mask", {}), ("--pet", {"--pet-unit": "SUV"})):
        arguments = {"--pet": str(mri), "--mri": str(mri), "--out": str(tmp_path / "out"), option: str(path)} | unit
        assert cli.main(["fuse", *(word for pair in arguments.items() for word in pair)]) == 2
        error = capsys.readouterr().err
        assert f"got {kind}" in error and remedy in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["pet.mgz", "pet.hdr", "analyze.hdr", "pet.nrrd", "pet.mha"])
def test_the_way_out_leads_to_a_file_that_is_read(tmp_path, name):
    """What the sentence says, done: the same voxels, and a geometry that medfuse takes."""
    path, out = make(tmp_path, name), tmp_path / "out.nii.gz"
    _, remedy = foreign_format(path)
    if "SimpleITK" in remedy or "nibabel" in remedy:
        code = remedy.partition(", once")[0].replace("IN", str(path)).replace("OUT.nii.gz", str(out))
        exec(code, {"nibabel": nib, "SimpleITK": sitk})
    else:  # mri_convert is not here; nibabel does as it does
        nib.save(nib.Nifti1Image(ARRAY, nib.load(path).affine), out)
    check_nifti(out)
    read = np.asarray(nib.load(out).dataobj)
    np.testing.assert_array_equal(read if read.shape == ARRAY.shape else read.T, ARRAY)


def test_dicom_may_have_any_name(tmp_path):
    path = tmp_path / "1.2.840.img"
    path.write_bytes(bytes(128) + b"DICM" + bytes(300))
    assert foreign_format(path) is None
    (tmp_path / "a.img").write_bytes(bytes(400))  # no header beside it: it may be DICOM without preamble
    assert foreign_format(tmp_path / "a.img") is None


def test_a_packed_pair_and_interfile_are_told(tmp_path):
    make(tmp_path, "a.hdr")
    (tmp_path / "b.hdr.gz").write_bytes(gzip.compress((tmp_path / "a.hdr").read_bytes()))
    assert foreign_format(tmp_path / "b.hdr.gz")[0].startswith("a NIfTI pair")
    (tmp_path / "c.hdr").write_text("!INTERFILE :=\n")
    assert foreign_format(tmp_path / "c.hdr")[0] == "Interfile"
    (tmp_path / "d.hdr").write_text("no header at all")
    assert foreign_format(tmp_path / "d.hdr")[0] == "a header of another format"


def test_a_folder_that_holds_no_dicom_says_what_it_holds(tmp_path, capsys):
    make(tmp_path, "one/pet.nii.gz")
    make(tmp_path, "two/pet.mgz")
    with pytest.raises(ImageError, match="must hold a DICOM series, got NIfTI"):
        require_no_nifti(tmp_path / "one")
    mri = str(tmp_path / "one" / "pet.nii.gz")
    assert cli.main(["fuse", "--pet", str(tmp_path / "two"), "--mri", mri, "--out", str(tmp_path / "out")]) == 2
    assert "got a FreeSurfer volume" in capsys.readouterr().err


def test_a_case_of_a_folder_says_it_and_the_others_go_on(tmp_path):
    for case, pet in (("a", "pet.mgz"), ("b", "pet.nii.gz")):
        make(tmp_path, f"{case}/mri.nii.gz")
        make(tmp_path, f"{case}/{pet}")
    make(tmp_path, "c/pet.v")
    make(tmp_path, "d_mri.nii.gz")
    make(tmp_path, "d_pet.nrrd")
    found = {item["case"]: item.get("problem") for item in find_cases(tmp_path, tolerant=True)}
    assert found["b"] is None
    for case, kind in (("a", "a FreeSurfer volume"), ("c", "ECAT"), ("d", "NRRD")):
        assert f"got {kind}" in found[case]


def test_a_folder_of_nothing_else_says_it(tmp_path):
    make(tmp_path, "a/brain.mgz")
    with pytest.raises(ImageError, match="got a FreeSurfer volume"):
        discover(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.mgz", "a FreeSurfer volume, which is no 2-D image; convert it to NIfTI \\(mri_convert IN OUT.nii.gz\\)"),
        ("a.nrrd", "NRRD, which is no 2-D image; convert it to NIfTI"),
        ("a.mha", "MetaImage, which is no 2-D image; convert it to NIfTI"),
        ("a.nii.gz", "NIfTI, which is no 2-D image; fuse it with `medfuse fuse`"),
        ("a.dcm", "DICOM, which is no 2-D image; fuse it with `medfuse fuse`"),
        ("a", "DICOM, which is no 2-D image"),
        ("a.zip", "an archive; unpack it first"),
        ("a.npz", "an array without geometry; write it as npy"),
    ],
)
def test_volumes_given_as_images_are_told_by_their_format(tmp_path, name, said):
    content = bytes(128) + b"DICM" + bytes(20) if name in ("a.dcm", "a") else b"volume" * 50
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(content)
    with pytest.raises(ImageError, match=f"must be one of .* got {said}"):
        read_image(tmp_path / "one" / name)
    with pytest.raises(BundleError, match=f"source1 must hold images .* got {said}"):
        match_folders(tmp_path / "one", tmp_path / "two")
    with pytest.raises(BundleError, match=f"source1 must be a folder, got {said}"):
        match_folders(tmp_path / "one" / name, tmp_path / "two")
    (tmp_path / "pairs.tsv").write_text(f"source1\tsource2\none/{name}\ttwo/{name}\n")
    with pytest.raises(BundleError, match=f"row 2 of the manifest must be an image .* got {said}"):
        match_manifest(tmp_path / "pairs.tsv")


PACKED = gzip.compress(b"not a NIfTI".ljust(400))
CONTENTS = {  # what lies under the name of an image: what it is called, and the way out
    b"": ("an empty file", "copy it again"),
    b"<!DOCTYPE html>\n<html><title>Sign in</title>": ("a web page", "the download failed"),
    b"\xef\xbb\xbf\r\n<HTML><body>": ("a web page", "the download failed"),
    b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>': ("XML", "the download failed"),
    b'{"message": "Not Found"}': ("JSON", "the download failed"),
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n": ("Git LFS", "git lfs pull"),
    b"/annex/objects/MD5E-s1--00.nii.gz\n": ("git-annex", "datalad get"),
    b"PK\3\4".ljust(400, b"\0"): ("a ZIP archive", "unpack it first"),
    b"MATRIX72v".ljust(400, b"\0"): ("ECAT 7", "ecatpet2bids"),
    b"NRRD0005\ntype: float\n": ("NRRD", "SimpleITK"),
    b"ObjectType = Image\nNDims = 3\n": ("MetaImage", "SimpleITK"),
    b"\x93NUMPY\1\0": ("an array of NumPy", "nibabel"),
    b"\x89HDF\r\n\x1a\n": ("HDF5", "the tool that wrote it"),
    bytes(600): ("zeros", "copy it again"),
    bytes(128) + b"DICM" + bytes(300): ("DICOM", "call it .dcm"),
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", ["pet.nii.gz", "pet.nii", "pet.dat", "pet", "pet.dcm", "a.png"])
def test_what_lies_under_the_name_of_an_image_is_told(tmp_path, content, name):
    kind, remedy = CONTENTS[content]
    path = tmp_path / name
    path.write_bytes(content)
    if kind == "DICOM" and not name.startswith("pet.nii") and name != "a.png":
        return
    with pytest.raises(MedfuseError) as raised:
        if name == "a.png":
            read_image(path)
        elif name == "pet.dcm":
            DicomReader(modality="PT").get_data((str(path),))
        else:
            DescribeSourcesd(keys=["pet"], modality="PT")({"case": "a", "pet": str(path)})
    message = str(raised.value)
    assert kind in message and remedy in message and "\n" not in message
    assert "cut short or corrupt" not in message  # which would send the reader to copy it once more


def test_packed_and_unpacked_are_told_apart(tmp_path):
    plain = make(tmp_path, "a.nii.gz").read_bytes()
    for name, content, said in (
        (
            "b.nii.gz",
            gzip.decompress(plain),
            "got a NIfTI that is not packed; call it .nii",
        ),
        ("c.nii", plain, "got a file packed by gzip; call it .nii.gz"),
        ("d.nii.gz", PACKED, "must be a single-file NIfTI, got another format"),
        ("e.nii.gz", plain[:300], "must be a whole gzip file, got one that is cut short"),
        ("f.nii.gz", b"some text " * 60, "must be a gzip file of a NIfTI, got another file"),
        ("g.nii.gz", gzip.compress(b"MATRIX72v".ljust(400, b"\0")), "got ECAT 7"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=said):
            check_nifti(tmp_path / name)


@pytest.mark.parametrize("name", ["pet.raw", "pet.img", "pet.dat", "pet.i"])
def test_voxels_without_a_header_are_told(tmp_path, name):
    (tmp_path / name).write_bytes(ARRAY.tobytes())
    with pytest.raises(ImageError, match="got voxels without a header; give the header that lies with it"):
        require_volume(tmp_path / name)


def test_weights_that_were_not_fetched_are_told(tmp_path):
    weights, network = tmp_path / "model.pt", torch.nn.Linear(1, 1)
    for content, (kind, remedy) in list(CONTENTS.items())[:6]:
        weights.write_bytes(content)
        with pytest.raises(BundleError) as raised:
            restore_network(network, weights)
        message = str(raised.value)
        assert message.startswith("the weights must fit the network, got ") and kind in message and remedy in message
    torch.save({"other": torch.zeros(1)}, weights)
    with pytest.raises(BundleError, match=r"got others at models/model\.pt; restore them"):
        restore_network(network, weights)

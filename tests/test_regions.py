"""Regions: drawn in NIfTI, SEG or RTSTRUCT, placed on a grid, named by a table; a case with them from end to end."""

from __future__ import annotations

import csv
import json

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from drawn_regions import AFFINE, FRAME, SHAPE, centres, image, ring, write_segmentation, write_structures
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter

from medfuse import cli
from medfuse.errors import BundleError, DicomError, ImageError
from medfuse.io.dicom.regions import check_regions, read_regions, regions_file
from medfuse.io.labels import read_labels, region_label
from medfuse.pipeline.regions import LoadRegionsd, PlaceRegionsd
from medfuse.report import findings


class TestDrawn:
    def test_a_segmentation_keeps_its_voxels_names_and_overlaps(self, tmp_path):
        big, small = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
        big[3:15, 4:20, 1:5], small[5:8, 6:9, 2:4] = True, True
        write_segmentation(tmp_path / "seg.dcm", {"Tumour <b>": big, "Core & edge's": small})
        found = read_regions(tmp_path / "seg.dcm")
        assert (found.kind, found.frame_of_reference) == ("SEG", FRAME)
        assert found.names == {1: "Tumour _b_", 2: "Core & edge's"}  # what may stand on a page
        assert found.volume.shape[0] == 2  # they overlap
        for label, mask in ((1, big), (2, small)):
            there = np.argwhere((found.volume == label).any(0)) @ found.affine[:3, :3].T + found.affine[:3, 3]
            truth = np.argwhere(mask) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
            np.testing.assert_allclose(sorted(map(tuple, there)), sorted(map(tuple, truth)), atol=1e-4)

    def test_contours_hold_the_voxels_whose_centre_they_enclose(self, tmp_path):
        z = [-9.0 + 3 * k for k in range(1, 5)]
        outer, hole = ((-8.0, -17.0), 12.3), ((-8.0, -17.0), 5.1)
        write_structures(
            tmp_path / "rt.dcm",
            {"Shell": [ring(*outer, h) for h in z] + [ring(*hole, h) for h in z], "Marker": []},
        )
        found = read_regions(tmp_path / "rt.dcm")
        assert (found.kind, found.frame_of_reference, found.left_out) == ("RTSTRUCT", FRAME, ("Marker",))
        labels = found.on(AFFINE, SHAPE)
        r = np.hypot(*(centres()[..., i] - outer[0][i] for i in range(2)))
        depth = centres()[..., 2]
        truth = (r < 12.3) & (r > 5.1) & (depth > z[0] - 1.5) & (depth < z[-1] + 1.5)
        assert np.array_equal(labels[0] == 3, truth)

    @pytest.mark.parametrize("first", [-9.005, -8.995])
    def test_contours_of_one_plane_are_one_plane_whatever_their_last_digits(self, tmp_path, first):
        """Their depths differ by rounding: at the edge between two hundredths of a mm they were two planes."""
        z = [first + 3 * k for k in range(1, 5)]
        place, angle = (-8.0, -17.0), np.linspace(0, 2 * np.pi, 37, endpoint=False)
        hole = [np.stack([-8 + 5.1 * np.cos(angle), -17 + 5.1 * np.sin(angle), np.full(37, h + 1e-4)], 1) for h in z]
        write_structures(tmp_path / "rt.dcm", {"Shell": [ring(place, 12.3, h - 1e-4) for h in z] + hole})
        labels = read_regions(tmp_path / "rt.dcm").on(AFFINE, SHAPE)
        r = np.hypot(*(centres()[..., i] - place[i] for i in range(2)))
        truth = (r < 12.3) & (r > 5.1) & (np.arange(6) >= 1) & (np.arange(6) <= 4)
        assert np.array_equal(labels[0] == 3, truth)

    def test_a_contour_that_is_there_twice_counts_once(self, tmp_path):
        """By exclusive or it would be nothing, as it is meant where the file says so (C.8.8.6: CLOSEDPLANAR_XOR)."""
        rod = [ring((-8.0, -17.0), 8.0, h) for h in (-6.0, -3.0)]
        found = []
        for kind, contours in (("CLOSED_PLANAR", rod), ("CLOSED_PLANAR", rod * 2), ("CLOSEDPLANAR_XOR", rod + rod[:1])):
            write_structures(tmp_path / "rt.dcm", {"Rod": contours}, kind=kind)
            labels = read_regions(tmp_path / "rt.dcm").on(AFFINE, SHAPE)
            found.append((labels[0] == 3).sum((0, 1)).tolist())
        assert found[0] == found[1]
        assert found[2] == [0, 0, found[0][2], 0, 0, 0]

    def test_a_name_of_two_values_is_one(self, tmp_path):
        write_structures(tmp_path / "rt.dcm", {"GTV\\boost": [ring((-8.0, -17.0), 8.0, -6.0)]})
        assert read_regions(tmp_path / "rt.dcm").names == {3: "GTV\\boost"}

    def test_planes_that_are_no_neighbours_enclose_nothing_between_them(self, tmp_path):
        """Slices 1 and 4 of 3 mm: each is a slice, and the 6 mm between them belong to nobody."""
        write_structures(tmp_path / "rt.dcm", {"Two": [ring((-8.0, -17.0), 8.0, -9.0 + 3 * k) for k in (1, 4)]})
        labels = read_regions(tmp_path / "rt.dcm").on(AFFINE, SHAPE)
        assert np.flatnonzero((labels[0] == 3).any((0, 1))).tolist() == [1, 4]

    def test_contours_come_to_a_turned_and_finer_grid(self, tmp_path):
        z = np.arange(-9.0, 7, 3)
        write_structures(tmp_path / "rt.dcm", {"Rod": [ring((-8.0, -17.0), 10.0, h) for h in z]})
        turn = np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = turn @ np.diag([1.0, 1.2, 0.8]), (-5, 0, -12)
        labels = read_regions(tmp_path / "rt.dcm").on(affine, (40, 30, 40))
        volume = (labels == 3).sum() * 1.0 * 1.2 * 0.8
        assert volume == pytest.approx(np.pi * 100 * 18, rel=0.02)  # six planes of 3 mm

    @pytest.mark.parametrize(
        ("write", "message"),
        [
            (lambda p: p.write_bytes(b"\0" * 400), "SEG or RTSTRUCT, got another file"),
            (lambda p: write_structures(p, {"a": [ring((0, 0), 3, 0)]}, kind="POINT"), "1 to 1000 of them, got 0"),
            (lambda p: write_structures(p, {"a": [ring((900, 900), 3, 0)]}), "must lie in the images, got none"),
        ],
    )
    def test_what_cannot_be_used_is_refused(self, tmp_path, write, message):
        write(tmp_path / "x.dcm")
        with pytest.raises(DicomError, match=message):
            read_regions(tmp_path / "x.dcm").on(AFFINE, SHAPE)

    def test_a_broken_file_is_refused_without_its_words(self, tmp_path):
        write_structures(tmp_path / "x.dcm", {"Secret": [ring((0, 0), 3, 0)]})
        data = pydicom.dcmread(tmp_path / "x.dcm")
        data.ROIContourSequence[0].ContourSequence[0].ContourData = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "1"]
        data.save_as(tmp_path / "x.dcm")
        with pytest.raises(DicomError, match="points of three numbers"):
            read_regions(tmp_path / "x.dcm")

    def test_a_folder_must_hold_one_file_of_regions(self, tmp_path):
        for name in ("a", "b"):
            write_structures(tmp_path / f"{name}.dcm", {"a": [ring((0, 0), 3, 0)]})
        with pytest.raises(DicomError, match="one SEG or RTSTRUCT, got 2"):
            regions_file(tmp_path)
        (tmp_path / "b.dcm").unlink()
        assert check_regions(regions_file(tmp_path)) == "RTSTRUCT"


class TestPlaced:
    """Contours of the PET move with it when it is registered to the MRI; those of the MRI stay."""

    @pytest.mark.parametrize(("frame_of_mri", "moved"), [(FRAME, 0.0), ("1.2.9", 4.0), (None, 4.0)])
    def test_regions_follow_the_source_in_which_they_were_drawn(self, tmp_path, frame_of_mri, moved):
        write_structures(tmp_path / "rt.dcm", {"Rod": [ring((-8.0, -17.0), 8.0, h) for h in (-6.0, -3.0, 0.0)]})
        data = {"case": "a", "mask": str(tmp_path / "rt.dcm"), "mri": image(frame_of_mri), "pet": image(FRAME)}
        data = LoadRegionsd(reference="mri", moving="pet")(data)
        shift = np.eye(4)
        shift[0, 3] = 4.0  # by two voxels to the right
        data["pet_before"], data["pet"] = data["pet"], image(FRAME, shift @ AFFINE)
        placed = PlaceRegionsd(reference="mri", moving="pet")(data)["mask"]
        centre = centres()[placed[0].numpy() == 3].mean(0)
        assert centre == pytest.approx([-8 - moved, -17, -3], abs=0.3)

    def test_regions_of_another_frame_are_refused(self, tmp_path):
        write_structures(tmp_path / "rt.dcm", {"Rod": [ring((-8.0, -17.0), 8.0, h) for h in (-6.0, -3.0)]})
        data = {"case": "a", "mask": str(tmp_path / "rt.dcm"), "mri": image("1.2.9"), "pet": image("1.2.8")}
        with pytest.raises(DicomError, match="frame of reference of the MRI or PET, got another"):
            LoadRegionsd(reference="mri", moving="pet")(data)

    def test_what_of_regions_lies_outside_is_noted(self, tmp_path):
        """Label 1 lies within, half of 2 beyond the end of the MRI, 4 whole; 7 is between the voxels of the MRI."""
        marks = np.zeros((12, 8, 8), np.uint8)
        marks[2:4], marks[6:10], marks[10:], marks[1, 1, 1] = 1, 2, 4, 7
        nib.save(nib.Nifti1Image(marks, np.eye(4)), tmp_path / "m.nii.gz")
        mri = image(affine=np.diag([2.0, 2, 2, 1]), shape=(4, 4, 4))  # up to x = 7
        data = {"case": "a", "mask": str(tmp_path / "m.nii.gz"), "mri": mri, "pet": mri}
        where = {"reference": "mri", "moving": "pet"}
        placed = PlaceRegionsd(**where)(LoadRegionsd(**where)(data))["mask"]
        assert json.loads(placed.meta["region_outside"]) == {"2": 0.5, "4": 1.0, "7": 1.0}

    def test_a_reference_region_beyond_the_image_is_refused_as_it_is_loaded(self, tmp_path):
        """Its contours are a voxel beyond the end, where x grows to the left; of a NIfTI it is beyond the grid."""
        drawn = {"Pons": [ring((-35.0, -17.0), 3.0, h) for h in (-6.0, -3.0)]}
        write_structures(tmp_path / "rt.dcm", {**drawn, "Lesion": [ring((-9.0, -17.0), 5.0, h) for h in (-6.0, -3.0)]})
        marks = np.zeros((12, 8, 8), np.uint8)
        marks[2:4], marks[10:] = 1, 3
        nib.save(nib.Nifti1Image(marks, np.eye(4)), tmp_path / "m.nii.gz")
        small = image(affine=np.diag([2.0, 2, 2, 1]), shape=(4, 4, 4))
        for name, mri in (("rt.dcm", image(FRAME)), ("m.nii.gz", small)):
            data = {"case": "a", "mask": str(tmp_path / name), "mri": mri, "pet": mri}
            with pytest.raises(BundleError, match="must lie in the field of view of the MRI, got label 3 beyond it"):
                LoadRegionsd(reference="mri", moving="pet", reference_region=3)(data)

    @pytest.mark.parametrize(("first", "refused"), [(5.0, True), (2.0, False)])
    def test_a_reference_region_beyond_the_pet_is_refused_once_it_is_registered(self, tmp_path, first, refused):
        """The PET begins at x = `first`; the region ends at x = 3."""
        marks = np.zeros((12, 8, 8), np.uint8)
        marks[2:4] = 3
        nib.save(nib.Nifti1Image(marks, np.eye(4)), tmp_path / "m.nii.gz")
        moved = np.eye(4)
        moved[0, 3] = first
        data = {"case": "a", "mask": str(tmp_path / "m.nii.gz"), "mri": image(affine=np.eye(4), shape=(12, 8, 8))}
        data["pet"] = image(affine=moved, shape=(12, 8, 8))
        where = {"reference": "mri", "moving": "pet"}
        loaded = LoadRegionsd(**where, reference_region=3)(data)
        if refused:
            with pytest.raises(BundleError, match="must lie in the field of view of the PET, got label 3 beyond it"):
                PlaceRegionsd(**where)(loaded)
        else:
            assert (PlaceRegionsd(**where)(loaded)["mask"] == 3).sum() == 128

    def test_a_reference_region_of_the_pet_beyond_the_mri_names_the_mri(self):
        """Drawn on the PET, within it, and beyond the MRI once that was registered."""
        marks = torch.zeros(1, 12, 8, 8)
        marks[:, 9:11] = 3
        moved = np.eye(4)
        moved[0, 3] = 4.0
        labels = MetaTensor(marks, affine=torch.eye(4), meta={"region_world": "pet", "region_wanted": 3})
        data = {"mask": labels, "mri": image(affine=np.eye(4), shape=(12, 8, 8))}
        data |= {"pet_before": image(affine=np.eye(4), shape=(12, 8, 8)), "pet": image(affine=moved, shape=(12, 8, 8))}
        with pytest.raises(BundleError, match="field of view of the MRI, got label 3 beyond it"):
            PlaceRegionsd(reference="mri", moving="pet")(data)

    def test_what_of_contours_lies_outside_is_noted(self, tmp_path):
        """Half of label 3 beyond the end, where x grows to the left; 4 far away; of 5 no voxel has its centre in it."""
        end, z = -31.0, (-6.0, -3.0)  # LPS mm: half a voxel before the first centre
        drawn = {
            "Cut": [ring((end, -17.0), 8.0, h) for h in z], "Away": [ring((900.0, -17.0), 8.0, h) for h in z],
            "Thin": [ring((-9.0, -17.0), 0.4, h) for h in z],
        }  # fmt: skip
        write_structures(tmp_path / "rt.dcm", drawn | {"Iso": []})
        data = {"case": "a", "mask": str(tmp_path / "rt.dcm"), "mri": image(FRAME), "pet": image(FRAME)}
        where = {"reference": "mri", "moving": "pet"}
        placed = PlaceRegionsd(**where)(LoadRegionsd(**where)(data))["mask"]
        assert json.loads(placed.meta["region_empty"]) == ["Away", "Thin"]
        assert json.loads(placed.meta["region_left_out"]) == ["Iso"]
        r = np.hypot(centres()[..., 0] - end, centres()[..., 1] + 17)
        there = (r < 8) & np.isin(centres()[..., 2], z)
        assert np.array_equal(placed[0].numpy() == 3, there)
        assert json.loads(placed.meta["region_outside"])["3"] == pytest.approx(0.5)
        record = {"sources": {}, "mask_empty": ["Away", "Thin"], "mask_left_out": ["Iso"]}
        assert [f.level for f in findings(record) if "Away, Thin" in f.text or "points" in f.text] == [
            "warning",
            "note",
        ]


class TestLabels:
    def test_labels_near_whole_numbers_keep_their_names(self, tmp_path):
        """As a slope of the header makes them: 2.9998 is label 3."""
        marks = np.zeros((4, 4, 4), np.float32)
        marks[1], marks[2] = 2.9998, 5.0
        nib.save(nib.Nifti1Image(marks, np.eye(4)), tmp_path / "m.nii.gz")
        (tmp_path / "m.tsv").write_text("index\tname\n3\tPons\n5\tPutamen\n")
        data = {"case": "a", "mask": str(tmp_path / "m.nii.gz"), "mri": image(), "pet": image()}
        loaded = LoadRegionsd(reference="mri", moving="pet", reference_region=3)(data)["mask"]
        assert json.loads(loaded.meta["region_names"]) == {"3": "Pons", "5": "Putamen"}

    @pytest.mark.parametrize("largest", [16777215, 16777217])
    def test_labels_that_float32_cannot_tell_apart_are_refused(self, tmp_path, largest):
        marks = np.zeros((4, 4, 4), np.int32)
        marks[1], marks[2] = largest, largest - 1
        nib.save(nib.Nifti1Image(marks, np.eye(4)), tmp_path / "m.nii.gz")
        load = LoadRegionsd(reference="mri", moving="pet")
        data = {"case": "a", "mask": str(tmp_path / "m.nii.gz"), "mri": image(), "pet": image()}
        if largest < 1 << 24:
            assert np.array_equal(load(data)["mask"][0].numpy().astype(int), marks)
        else:
            with pytest.raises(ImageError, match="labels up to 16777215, got larger"):
                load(data)


class TestNames:
    def test_a_table_names_labels(self, tmp_path):
        table = tmp_path / "labels.tsv"
        table.write_text("index\tname\tcolor\n1\tgrey matter\t#000000\n7\tPons\t#ffffff\n")
        names = read_labels(table)
        assert names == {1: "grey matter", 7: "Pons"}
        assert region_label("pons", [1, 7], names) == region_label("7", [1, 7], names) == 7
        for wanted in ("8", "cerebellum"):
            with pytest.raises(BundleError, match="one region, by its number or its name, got one that no regions"):
                region_label(wanted, [1, 7], names)

    @pytest.mark.parametrize(
        "text", ["", "1,grey\n", "index\tname\n", "index\tlabel\n1\tx\n", "index\tname\n1\tx\n1\ty\n"]
    )
    def test_another_table_is_refused(self, tmp_path, text):
        (tmp_path / "t.tsv").write_text(text)
        with pytest.raises(BundleError, match="columns index"):
            read_labels(tmp_path / "t.tsv")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--mask", "m.nii.gz", "--atlas", "m.nii.gz"], "one must be given, got both"),
            (["--labels", "t.tsv"], "--labels must come with --mask or --atlas"),
            (["--reference", "3"], "--reference must come with --mask or --atlas"),
            (["--mask", "m.nii.gz", "--labels", "gone.tsv"], "--labels must be a file"),
        ],
    )
    def test_options_that_do_not_fit_are_refused_first(self, tmp_path, monkeypatch, capsys, options, message):
        monkeypatch.chdir(tmp_path)
        for name in ("a", "m"):
            nib.save(nib.Nifti1Image(np.arange(8 * 8 * 4.0).reshape(8, 8, 4) % 3, np.eye(4)), f"{name}.nii.gz")
        call = ["fuse", "--pet", "a.nii.gz", "--mri", "a.nii.gz", "--out", "out", *options]
        assert cli.main(call) == 2
        assert message in capsys.readouterr().err


def test_a_case_with_an_atlas_from_files_to_a_comparison(tmp_path, monkeypatch, capsys):
    """SUVR, GTM, table and dictionary, by the command line; then two time points."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    affine = np.diag([2.0, 2.0, 4.0, 1.0])
    labels = np.zeros((40, 40, 4), np.uint8)
    labels[8:32, 8:32], labels[14:22, 14:22] = 1, 2
    mri = np.array([0.0, 2.0, 1.0])[labels] + rng.uniform(0, 0.05, labels.shape)
    table = "index\tname\n1\tCerebellum\n2\tLesion\n"
    (tmp_path / "names.tsv").write_text(table)
    (tmp_path / "blur.yaml").write_text("{version: 1, source2: [{blur: {fwhm_mm: 6}}, {noise: {sigma: 0.01}}]}")
    nib.save(nib.Nifti1Image(mri.astype(np.float32), affine), "mri.nii.gz")
    nib.save(nib.Nifti1Image(labels, affine), "atlas.nii.gz")
    for name, hot in (("a", 4.0), ("b", 6.0)):
        pet = gaussian_filter(np.array([0.1, 1.0, hot])[labels], (6 / 2.3548 / 2, 6 / 2.3548 / 2, 0))
        nib.save(nib.Nifti1Image(pet.astype(np.float32), affine), f"{name}.nii.gz")
        call = ["fuse", "--pet", f"{name}.nii.gz", "--mri", "mri.nii.gz", "--atlas", "atlas.nii.gz", "--case", name]
        call += ["--labels", "names.tsv", "--reference", "cerebellum", "--degradation", "blur.yaml", "--aligned"]
        assert cli.main([*call, "--pet-unit", "SUV", "--out", "out"]) == 0
    with (tmp_path / "out/a/a_regions.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    dictionary = json.loads((tmp_path / "out/a/a_regions.json").read_text())
    assert set(rows[0]) == set(dictionary)
    assert dictionary["given_mean"]["Units"] == "SUV"
    assert [(row["index"], row["name"]) for row in rows] == [
        ("n/a", "whole image"), ("1", "Cerebellum"), ("2", "Lesion"),
    ]  # fmt: skip
    lesion, cerebellum = rows[2], rows[1]
    given = nib.load("a.nii.gz").get_fdata()
    assert float(lesion["given_mean"]) == pytest.approx(given[labels == 2].mean(), rel=1e-4)
    ratio = float(lesion["given_mean"]) / float(cerebellum["given_mean"])
    assert float(lesion["given_suvr"]) == pytest.approx(ratio, rel=1e-9)
    assert float(lesion["gtm_mean"]) == pytest.approx(4.0, rel=0.01)  # uniform regions, and the labels are true
    report = (tmp_path / "out/a/a_report.html").read_text()
    assert "Label 2, Lesion" in report
    assert "geometric transfer matrix" in report
    capsys.readouterr()
    assert cli.main(["compare", "out/a", "out/b/b.json", "--out", "change.tsv"]) == 0
    said = capsys.readouterr().out
    assert "Lesion: the mean of the restored PET went from" in said
    with (tmp_path / "change.tsv").open(newline="") as file:
        change = list(csv.DictReader(file, delimiter="\t"))[2]
    later = nib.load("b.nii.gz").get_fdata()
    by = (later - given)[labels == 2].mean()
    assert float(change["given_difference"]) == pytest.approx(by, rel=1e-4)


def test_regions_of_another_place_are_refused_by_name(tmp_path, monkeypatch, capsys):
    """What is wrong is the regions, not the pair of images; one file cannot be that of each case of a batch."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    affine, away = np.diag([2.0, 2.0, 4.0, 1.0]), np.diag([2.0, 2.0, 4.0, 1.0])
    away[0, 3] = 1000.0
    (tmp_path / "cases/a").mkdir(parents=True)
    for name in ("mri", "pet"):
        nib.save(nib.Nifti1Image(rng.uniform(0, 1, (32, 32, 2)).astype(np.float32), affine), f"cases/a/{name}.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((32, 32, 2), np.uint8), away), "away.nii.gz")
    call = ["--pet", "cases/a/pet.nii.gz", "--mri", "cases/a/mri.nii.gz", "--aligned", "--atlas", "away.nii.gz"]
    assert cli.main(["fuse", *call, "--degradation", "none", "--out", "out"]) == 2
    assert "Regions must overlap the MRI" in capsys.readouterr().err
    assert not (tmp_path / "out/case").exists()
    call = ["batch", "cases", "many", "participant", "--degradation", "none", "--atlas", "away.nii.gz"]
    assert cli.main(call) != 0
    assert "one file for all cases" in capsys.readouterr().err.replace("\n", " ")

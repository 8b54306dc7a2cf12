"""Regions of two time points: their differences, and whether both are of one person."""

from __future__ import annotations

import json

import pytest
from drawn_regions import source_images

from medfuse.errors import BundleError, ImageError
from medfuse.pipeline.compare import compare_cases
from medfuse.regions import compare_regions
from medfuse.regions.comparison import change_sentence


def case_record(mean: float, sd: float | None = None, unit: str = "SUV", name: str = "Pons") -> dict:
    region = {"label": 7, "name": name, "given": {"mean": mean}, "restored": {"mean": 2 * mean}}
    region |= {} if sd is None else {"interval": {"sd": sd}}
    whole = {"label": None, "given": {"mean": 1.0}, "restored": {"mean": 1.0}}
    return {"sources": {"mri": {}, "pet": {"unit": unit, "regions": [whole, region]}}}


class TestCompared:
    def test_the_difference_has_the_interval_of_two_errors(self):
        _, found = compare_regions(case_record(2.0, 0.3), case_record(3.0, 0.4))
        restored = found["restored"]
        assert (restored["difference"], restored["percent"]) == (2.0, 50.0)
        assert restored["sd"] == pytest.approx(0.5)  # 3, 4, 5
        assert (restored["low"], restored["high"]) == pytest.approx((2 - 0.98, 2 + 0.98), abs=1e-3)
        assert restored["changed"]
        assert not compare_regions(case_record(2.0, 3.0), case_record(3.0, 4.0))[1]["restored"]["changed"]

    def test_the_whole_image_says_that_it_has_no_interval_and_asks_for_none(self):
        said = [change_sentence(r, "PET", "SUV") for r in compare_regions(case_record(2.0, 0.3), case_record(3.0, 0.4))]
        assert said[0].endswith("how sure that is is computed of regions alone.") and "95 % interval" in said[1]
        unsure = [change_sentence(r, "PET", "SUV") for r in compare_regions(case_record(2.0), case_record(3.0))]
        assert "--uncertainty full" not in unsure[0] and unsure[1].endswith("fuse both with --uncertainty full.")

    @pytest.mark.parametrize(("later", "ratio"), [("Pons", 0.5), ("White matter", None)])
    def test_ratios_to_one_reference_region_are_compared(self, later, ratio):
        first, second = case_record(2.0), case_record(3.0)
        for record, suvr, by in ((first, 1.0, "Pons"), (second, 1.5, later)):
            record["reference_region"] = by
            record["sources"]["pet"]["regions"][1]["restored"]["suvr"] = suvr
        found = compare_regions(first, second)[1]["suvr"]
        assert (found and found["difference"]) == ratio

    def test_the_whole_image_of_another_field_of_view_is_not_compared(self):
        first, second = case_record(1.0), case_record(1.0)
        for record, volume in ((first, 9000.0), (second, 8000.0)):
            record["sources"]["pet"]["regions"][0]["volume_ml"] = volume
        assert [row["label"] for row in compare_regions(first, second)] == [7]
        assert [row["label"] for row in compare_regions(first, first)] == [None, 7]

    def test_suv_by_two_formulas_of_lean_body_mass_are_not_compared(self):
        """Both have the unit SUVlbm."""
        first, second = case_record(1.0, unit="SUVlbm"), case_record(1.0, unit="SUVlbm")
        for record, kind in ((first, "lbm"), (second, "lbm-james")):
            record["sources"]["pet"]["suv"] = {"kind": kind}
        with pytest.raises(ImageError, match="one formula, got lbm and lbm-james"):
            compare_regions(first, second)

    @pytest.mark.parametrize(
        ("second", "message"),
        [
            (case_record(1.0, unit="Bq/mL"), "one source and unit"),
            (case_record(1.0, name="Putamen"), "one region in both cases"),
            ({"sources": {"mri": {}, "pet": {}}}, "values of regions"),
        ],
    )
    def test_cases_that_cannot_be_compared_are_refused(self, second, message):
        with pytest.raises(ImageError, match=message):
            compare_regions(case_record(1.0), second)


class TestPersons:
    """Two cases are of one person, and of two scans."""

    @staticmethod
    def write(folder, name: str, record: dict, patient: str | None = None) -> None:
        (folder / name).mkdir()
        (folder / name / f"{name}.json").write_text(json.dumps(record | {"case": name}))
        if patient is not None:
            (folder / name / "dicom" / "fused").mkdir(parents=True)
            (image := source_images(folder)[0]).PatientID = patient
            image.save_as(folder / name / "dicom" / "fused" / "0001.dcm", enforce_file_format=True)

    @pytest.mark.parametrize(
        ("names", "patients", "known"),
        [
            (("a", "b"), ("P", "P"), True),
            (("a", "b"), ("P", "Q"), None),
            (("a", "b"), (None, "P"), False),
            (("sub-1_ses-1", "sub-1_ses-2"), (None, None), True),
            (("sub-1_ses-1", "sub-2_ses-1"), (None, None), None),
        ],
    )
    def test_cases_of_two_persons_are_refused(self, tmp_path, names, patients, known):
        for name, patient in zip(names, patients, strict=True):
            self.write(tmp_path, name, case_record(2.0), patient)
        paths = [tmp_path / name for name in names]
        if known is None:
            with pytest.raises(BundleError, match="must be of one person, got cases of two"):
                compare_cases(*paths)
        else:
            said = compare_cases(*paths)["sentences"]
            assert ("of one person is not known" in said[-1]) is not known
            assert "fuse both with --uncertainty full" in said[1]

    def test_what_else_a_difference_holds_is_said(self, tmp_path):
        """Another restoration, another PSF, another reference region, a region that one case has alone or in part."""
        first, second = case_record(2.0), case_record(3.0)
        assert self.doubts(tmp_path / "same", first, second) == []
        other = {"label": 9, "name": "Putamen", "given": {"mean": 1.0}, "restored": {"mean": 1.0}}
        second["sources"]["pet"]["regions"].append(other)
        second |= {"mask_unmeasured": {"7": 0.4}, "reference_region": "Pons", "weights_sha256": "b"}
        first["sources"]["pet"]["native"] = {"guided": True, "psf_fwhm_mm": [6, 6, 6]}
        said = self.doubts(tmp_path / "other", first, second)
        for text in (
            "earlier case was restored on its own grid, guided, that of the later came back as it was given",
            "not made by one version", "not one reference region", "later case alone: Label 9, Putamen; not compared",
            "Of Label 7, Pons not the same part",
        ):  # fmt: skip
            assert sum(text in sentence for sentence in said) == 1
        second["sources"]["pet"]["native"] = {"guided": True, "psf_fwhm_mm": [6, 6, 6.7]}
        said = self.doubts(tmp_path / "psf", first, second)
        assert any("a PSF of 6 x 6 x 6 mm, then of 6 x 6 x 6.7 mm" in sentence for sentence in said)

    def test_another_network_on_the_own_grid_is_said(self, tmp_path):
        first, second = case_record(2.0), case_record(3.0)
        natives = [record["sources"]["pet"].setdefault("native", {"guided": True}) for record in (first, second)]
        natives[0]["weights_sha256"] = "a"
        said = self.doubts(tmp_path / "rule", first, second)
        assert len(said) == 1
        assert "grid by a trained network, guided, that of the later was restored on its own grid, guided;" in said[0]
        natives[1]["weights_sha256"] = "b"
        (said,) = self.doubts(tmp_path / "network", first, second)
        assert "not made by one version" in said

    def doubts(self, folder, first: dict, second: dict) -> list[str]:
        folder.mkdir()
        for name, record in (("sub-1_ses-1", first), ("sub-1_ses-2", second)):
            self.write(folder, name, record)
        return compare_cases(*sorted(folder.iterdir()))["doubts"]

    def test_a_scan_is_not_compared_with_itself(self, tmp_path):
        record = case_record(2.0)
        record["sources"]["pet"]["sha256"] = "d1"
        for name in ("a", "b"):
            self.write(tmp_path, name, record)
        with pytest.raises(BundleError, match="two scans, got two of one"):
            compare_cases(tmp_path / "a", tmp_path / "b")

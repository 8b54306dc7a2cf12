from __future__ import annotations

import json

import pytest

from medfuse.errors import BundleError
from medfuse.io import discover
from medfuse.io.bids import find_bids_cases
from medfuse.io.bids_filter import read_selection


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def sidecar(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def one(root, subject="sub-01", session=""):
    place = f"{subject}/{session}/" if session else f"{subject}/"
    stem = f"{subject}_{session}" if session else subject
    return make(root, f"{place}pet/{stem}_trc-FDG_pet.nii.gz", f"{place}anat/{stem}_T1w.nii.gz")


def test_subjects_with_and_without_sessions(tmp_path):
    one(one(one(tmp_path), "sub-02", "ses-b"), "sub-02", "ses-a")
    (tmp_path / "dataset_description.json").write_text("{}")
    found = discover(tmp_path)
    assert found.layout == "BIDS dataset"
    assert [case["case"] for case in found.cases] == ["sub-01", "sub-02_ses-a", "sub-02_ses-b"]
    assert found.cases[0] == {
        "case": "sub-01",
        "mri": str(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz"),
        "pet": str(tmp_path / "sub-01/pet/sub-01_trc-FDG_pet.nii.gz"),
    }
    assert "ses-b" in found.cases[2]["mri"]


def test_the_folders_alone_show_what_it_is(tmp_path):
    assert discover(one(tmp_path, session="ses-1")).layout == "BIDS dataset"


@pytest.mark.parametrize("label", ["02", "sub-02"])
def test_labels_choose(tmp_path, label):
    one(one(one(tmp_path), "sub-02", "ses-b"), "sub-02", "ses-a")
    assert [c["case"] for c in find_bids_cases(tmp_path, participants=[label])] == ["sub-02_ses-a", "sub-02_ses-b"]
    chosen = find_bids_cases(tmp_path, participants=[label], sessions=["ses-b"])
    assert [c["case"] for c in chosen] == ["sub-02_ses-b"]


def test_unknown_labels_are_refused(tmp_path):
    with pytest.raises(BundleError, match="got 1 that are not: sub-7"):
        find_bids_cases(one(tmp_path), participants=["01", "7"])
    with pytest.raises(BundleError, match="Every session label must be in the dataset"):
        find_bids_cases(tmp_path, sessions=["x"])


@pytest.mark.parametrize(
    "where",
    ["sub-01/pet/sub-01_trc-FDG_pet.json", "sub-01/sub-01_pet.json", "pet.json", "trc-FDG_pet.json"],
)
def test_the_unit_is_read_or_inherited(tmp_path, where):
    sidecar(one(tmp_path) / where, Units="Bq/mL", PatientName="CANARY")
    sidecar(tmp_path / "trc-PIB_pet.json", Units="SUV")
    assert find_bids_cases(tmp_path)[0]["pet_unit"] == "Bq/mL"


def test_the_nearest_sidecar_wins(tmp_path):
    sidecar(one(tmp_path) / "pet.json", Units="Bq/mL")
    sidecar(tmp_path / "sub-01/pet/sub-01_trc-FDG_pet.json", Units="SUV")
    assert find_bids_cases(tmp_path)[0]["pet_unit"] == "SUV"


@pytest.mark.parametrize(
    ("content", "unit"),
    [
        ({"Unit": "Bq/ml"}, "Bq/ml"),  # the key of the drafts of BIDS for PET
        ({"Units": "Bq/ml", "Unit": "Bq/ml"}, "Bq/ml"),
        ({"units": "Bq/ml"}, "Bq/ml"),  # as some converters and hands write it
        ({"UNITS": "SUV"}, "SUV"),
        ({"Units": "BQML"}, "Bq/ml"),  # the code of DICOM, as some converters leave it
        ({"Units": "n/a", "Unit": "SUV"}, "SUV"),  # BIDS: n/a is no value
        ({"Units": "n/a"}, None),
        ({"Units": None}, None),
        ({"Units": ""}, None),
        ({}, None),
    ],
)
def test_units_has_an_older_name_and_may_be_missing(tmp_path, content, unit):
    sidecar(one(tmp_path) / "pet.json", **content)
    assert find_bids_cases(tmp_path)[0].get("pet_unit") == unit


def test_two_names_with_two_units_are_refused(tmp_path):
    sidecar(one(tmp_path) / "pet.json", Units="Bq/ml", Unit="kBq/ml")
    assert "Units and Unit of the PET of sub-01 must be equal" in find_bids_cases(tmp_path)[0]["problem"]


def test_a_sidecar_may_begin_with_a_byte_order_mark(tmp_path):
    (one(tmp_path) / "pet.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"Units": "Bq/mL"}).encode())
    assert find_bids_cases(tmp_path)[0]["pet_unit"] == "Bq/mL"


def test_a_session_without_mri_takes_the_only_one_of_the_subject(tmp_path):
    make(tmp_path, "sub-01/ses-1/pet/sub-01_ses-1_pet.nii.gz", "sub-01/ses-0/anat/sub-01_ses-0_T1w.nii.gz")
    cases = find_bids_cases(tmp_path)
    assert [c["case"] for c in cases] == ["sub-01_ses-1"]
    assert cases[0]["mri"].endswith("sub-01_ses-0_T1w.nii.gz")
    assert "mri_chosen_of" not in cases[0]


@pytest.mark.parametrize(
    ("session", "taken", "of"), [("2", "ses-2", 1), ("3", "ses-2", 3), ("5", "ses-4", 3), ("1", "ses-2", 3)]
)
def test_of_several_sessions_with_an_mri_the_nearest_is_taken(tmp_path, session, taken, of):
    place = f"sub-01/ses-{session}/pet/sub-01_ses-{session}_pet.nii.gz"
    make(tmp_path, place, *(f"sub-01/ses-{n}/anat/sub-01_ses-{n}_T1w.nii.gz" for n in (2, 4, 6)))
    (case,) = find_bids_cases(tmp_path)
    assert f"/{taken}/" in case["mri"]
    assert case.get("mri_chosen_of", 1) == of


def test_of_several_mris_one_is_taken_by_rule(tmp_path):
    names = ["ce-Gd_T1w", "acq-b_T1w", "acq-a_run-10_T1w", "acq-a_run-2_T1w", "rec-norm_acq-a_T1w"]
    make(one(tmp_path), *(f"sub-01/anat/sub-01_{name}.nii.gz" for name in names))
    order = ["T1w", "acq-a_run-2_T1w", "acq-a_run-10_T1w", "rec-norm_acq-a_T1w", "ce-Gd_T1w"]
    order.insert(1, "acq-b_T1w")  # its run counts as 0
    for left, name in enumerate(order):
        (case,) = find_bids_cases(tmp_path)
        assert case["mri"].endswith(f"sub-01_{name}.nii.gz")
        assert case.get("mri_chosen_of", 1) == len(order) - left
        (tmp_path / case["mri"]).unlink()


class TestSelection:
    @pytest.fixture
    def several(self, tmp_path):
        pets = ["trc-FDG_rec-dyn_run-1", "trc-FDG_rec-dyn_run-02", "trc-FDG_rec-stat_run-1", "trc-AV45"]
        heads = ["T1w", "acq-hi_T1w"]
        return make(
            tmp_path,
            *(f"sub-01/pet/sub-01_{name}_pet.nii.gz" for name in pets),
            *(f"sub-01/anat/sub-01_{name}.nii.gz" for name in heads),
        )

    @staticmethod
    def found(root, selection):
        (case,) = find_bids_cases(root, selection=selection)
        return case.get("problem") or (case["pet"].split("sub-01_")[-1], case["mri"].split("sub-01_")[-1])

    def test_labels_choose_the_pet(self, several):
        choose = read_selection
        assert self.found(several, choose(tracer="AV45"))[0] == "trc-AV45_pet.nii.gz"
        assert self.found(several, choose(reconstruction="rec-stat"))[0] == "trc-FDG_rec-stat_run-1_pet.nii.gz"
        assert self.found(several, choose(reconstruction="dyn", run="2"))[0] == "trc-FDG_rec-dyn_run-02_pet.nii.gz"
        problem = self.found(several, choose(tracer="FDG"))
        assert "got 3 (trc-FDG_rec-dyn_run-02_pet, trc-FDG_rec-dyn_run-1_pet" in problem
        assert "choose one by --trc, --rec or --run" in problem
        problem = self.found(several, choose(tracer="PIB"))
        assert "one PET (pet/*_pet.nii.gz) that is asked for, got 0 (trc-AV45_pet, " in problem

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ({"pet": {"tracer": "AV45"}}, ("trc-AV45_pet.nii.gz", "T1w.nii.gz")),
            ({"pet": {"reconstruction": None}}, ("trc-AV45_pet.nii.gz", "T1w.nii.gz")),
            ({"pet": {"reconstruction": "Query.NONE"}}, ("trc-AV45_pet.nii.gz", "T1w.nii.gz")),
            (
                {"pet": {"reconstruction": ["dyn", "other"], "run": 1, "suffix": "pet", "datatype": "pet"},
                 "t1w": {"acquisition": "Query.ANY"}, "bold": {"task": "rest"}},
                ("trc-FDG_rec-dyn_run-1_pet.nii.gz", "acq-hi_T1w.nii.gz"),
            ),
            ({"pet": {"trc": "FDG", "rec": "Query.OPTIONAL", "run": ["2"]}}, ("trc-FDG_rec-dyn_run-02_pet.nii.gz", "T1w.nii.gz")),  # noqa: E501
        ],
    )  # fmt: skip
    def test_a_filter_file_chooses(self, several, content, expected):
        file = several / "filter.json"
        file.write_text("﻿" + json.dumps(content), encoding="utf-8")
        assert self.found(several, read_selection(file)) == expected

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("[]", "The BIDS filter file must be an object, got list"),
            ("{", "must be a small, readable JSON file"),
            ('{"pett": {}}', "must be pet or t1w"),
            ('{"pet": {"tracr": "FDG"}}', "must be one of PyBIDS"),
            ('{"pet": {"tracer": {}}}', "must be a label, a number, null"),
            ('{"pet": []}', "The query pet of the BIDS filter file must be an object"),
        ],
    )
    def test_a_filter_file_that_is_none_is_refused(self, tmp_path, content, message):
        file = tmp_path / "filter.json"
        file.write_text(content)
        with pytest.raises(BundleError, match=message):
            read_selection(file)

    def test_labels_and_file_must_not_contradict(self, tmp_path):
        file = tmp_path / "filter.json"
        file.write_text('{"pet": {"tracer": ["FDG", "PIB"]}}')
        assert read_selection(file, tracer="PIB").wanted == {"pet": {"trc": ("PIB",)}}
        with pytest.raises(BundleError, match="--trc must be among what the BIDS filter file asks for"):
            read_selection(file, tracer="AV45")
        with pytest.raises(BundleError, match="--run must be a label"):
            read_selection(run="1;2")

    def test_it_comes_with_bids_alone(self, tmp_path):
        make(tmp_path, "a/mri.nii.gz", "a/pet.nii.gz")
        with pytest.raises(BundleError, match="must come with a BIDS dataset"):
            discover(tmp_path, selection=read_selection(tracer="FDG"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("pet/sub-01_trc-PIB_pet.nii",), "one PET (pet/*_pet.nii.gz), got 2 (trc-FDG_pet, trc-PIB_pet); choose one"),
    ],
)
def test_what_is_ambiguous_is_refused_for_this_case_alone(tmp_path, names, message):
    make(one(one(tmp_path), "sub-02"), *(f"sub-01/{name}" for name in names))
    first, second = find_bids_cases(tmp_path)
    assert first.keys() == {"case", "problem"}
    assert message in first["problem"]
    assert "problem" not in second


def test_what_is_missing_is_said(tmp_path):
    make(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-02/pet/sub-02_pet.nii.gz")
    first, second = find_bids_cases(tmp_path)
    assert "sub-01 must have one PET (pet/*_pet.nii.gz), got 0" in first["problem"]
    assert "sub-02 must have one MRI (anat/*_T1w.nii.gz), got 0" in second["problem"]


def test_other_files_are_left_alone(tmp_path):
    one(tmp_path)
    make(tmp_path, "sub-01/anat/SMITH_T1w.nii.gz", "sub-01/anat/sub-01_T2w.nii.gz", "sub-01/pet/sub-01_T1w.nii.gz")
    make(tmp_path, "sub-01/pet/sub-01_desc_pet.nii.gz", "derivatives/sub-09/pet/sub-09_pet.nii.gz", "sub-x_y/a.txt")
    assert [c.get("problem") for c in find_bids_cases(tmp_path)] == [None]


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"Units": "CANARY NAME"}), json.dumps({"Units": 3})])
def test_a_sidecar_that_cannot_be_used_is_refused_without_its_text(tmp_path, content):
    (one(tmp_path) / "pet.json").write_text(content)
    problem = find_bids_cases(tmp_path)[0]["problem"]
    assert "of the PET of sub-01 must be" in problem
    assert "CANARY" not in problem


def test_a_dataset_without_subjects_is_refused(tmp_path):
    (tmp_path / "dataset_description.json").write_text("{}")
    with pytest.raises(BundleError, match="folders such as sub-01, got none"):
        discover(tmp_path)

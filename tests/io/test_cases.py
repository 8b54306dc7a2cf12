from __future__ import annotations

import json

import pytest

from medfuse.errors import BundleError
from medfuse.io.cases import find_cases, require_cases


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


@pytest.mark.parametrize(
    "names",
    [
        ("b/mri.nii.gz", "b/pet.nii", "a.1/T1w.nii.gz", "a.1/SUV.nii.gz"),
        ("b_mri.nii.gz", "b_PET.NII.GZ", "a.1_t1.nii", "a.1_pet.nii.gz"),
        ("b/mri.nii.gz", "b/pet.nii.gz", "a.1_mr.nii.gz", "a.1_suv.nii.gz"),
        ("b/b_mri.nii.gz", "b/B_pet.nii.gz", "a.1/a.1_T1.nii.gz", "a.1/pet.nii.gz"),
    ],
    ids=["folders", "flat", "mixed", "named folders"],
)
def test_layouts(tmp_path, names):
    cases = find_cases(make(tmp_path, *names, "README.md", ".hidden/mri.nii", "logs/run.txt"))
    assert [case["case"] for case in cases] == ["a.1", "b"]
    for case in cases:
        assert list(case) == ["case", "mri", "pet"]
        assert isinstance(case["mri"], str)
    assert {path for case in cases for path in (case["mri"], case["pet"])} == {str(tmp_path / name) for name in names}


def test_optional_files_and_fields(tmp_path):
    make(tmp_path, "a/mri.nii", "a/pet.nii", "a/mask.nii", "a/truth_mri.nii", "a/truth_SUV.nii", "a/flair.nii")
    (tmp_path / "a" / "case.json").write_text(json.dumps({"aligned": True, "pet_unit": "SUV", "dose": 3.7}))
    make(tmp_path, "sub_2_mri.nii.gz", "sub_2_pet.nii.gz", "sub_2_truth_pet.nii.gz", "sub_2_mask.nii.gz")
    first, second = find_cases(str(tmp_path))
    assert list(first) == ["case", "mri", "pet", "mask", "truth_mri", "truth_pet", "aligned", "pet_unit", "dose"]
    assert first["aligned"] is True
    assert first["truth_pet"].endswith("truth_SUV.nii")
    assert (second["case"], list(second)) == ("sub_2", ["case", "mri", "pet", "mask", "truth_pet"])


def test_other_keys(tmp_path):
    assert find_cases(make(tmp_path, "a_ct.nii", "a_mri.nii", "a_pet.nii"), keys=("mri", "ct"))[0].keys() == {
        "case",
        "mri",
        "ct",
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "got none"),
        (("readme.txt", "scan.nii.gz"), "got none"),
        (("a/mri.nii", "b/mri.nii", "b/pet.nii"), "Case a must have mri and pet, got mri; add pet"),
        (("a_pet.nii",), "Case a must have mri and pet, got pet; add mri"),
        (("a_mask.nii",), "got mask; add mri and pet"),
        (("a/scan1.nii", "b/mri.nii", "b/pet.nii"), "case a must hold mri and pet, got 1 NIfTI"),
        (("a/case.json", "b/mri.nii", "b/pet.nii"), "case a must hold mri and pet, got 0 NIfTI"),
        (("a/mri.nii", "a/mri.nii.gz", "a/pet.nii"), "one file for mri"),
        (("a/mri.nii", "a/t1.nii", "a/pet.nii"), "'mri.nii' and 't1.nii'"),
        (("a/mri.nii", "a/pet.nii", "a_mri.nii"), "one file for mri"),
        (("a_mri.nii", "a_pet.nii", "A_mri.nii", "A_pet.nii"), "upper and lower"),
        (("a/mri.nii", "a/pet#2.nii", "a/a_pet.nii", "x#1_mri.nii"), "got '#' in the name of entry 2"),
    ],
)
def test_incomplete_folder_is_refused(tmp_path, names, message):
    with pytest.raises(BundleError, match=message):
        find_cases(make(tmp_path, *names))


@pytest.mark.parametrize("name", ["SMITH^JOHN", "a b", "Zoë", "$(x)", "@x", "a;b"])
@pytest.mark.parametrize("layout", ["{}/mri.nii", "{}_mri.nii"])
def test_strange_id_is_refused_and_not_repeated(tmp_path, name, layout):
    with pytest.raises(BundleError, match="A case id must be") as caught:
        find_cases(make(tmp_path, layout.format(name)))
    assert name not in str(caught.value)


def test_missing_folder_and_hash_in_path(tmp_path):
    with pytest.raises(BundleError, match="must exist"):
        find_cases(tmp_path / "absent")
    with pytest.raises(BundleError, match="rename the folder"):
        find_cases(tmp_path / "set::1")
    with pytest.raises(BundleError, match="free of '#'"):
        find_cases(make(tmp_path / "set#1", "a/mri.nii", "a/pet.nii"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "readable JSON"),
        ("[1]", "must be an object, got list"),
        ('{"pet": "/etc/passwd"}', "no file key"),
        ('{"case": "b"}', "no file key"),
        ('{"truth_mri": "x"}', "no file key"),
        ('{"Pet Unit": "x"}', "small_letter"),
        ('{"aligned": "yes"}', "true or false"),
        ('{"dose": [1]}', "string, number or boolean, got list"),
    ],
)
def test_wrong_case_file_is_refused(tmp_path, text, message):
    make(tmp_path, "a/mri.nii", "a/pet.nii")
    (tmp_path / "a" / "case.json").write_text(text)
    with pytest.raises(BundleError, match=message):
        find_cases(tmp_path)


def test_require_cases(tmp_path):
    absent = tmp_path / "absent"
    assert find_cases(absent, allow_empty=True) == find_cases(tmp_path, allow_empty=True) == []
    with pytest.raises(BundleError, match="must exist"):
        require_cases([], absent)
    with pytest.raises(BundleError, match="must hold cases"):
        require_cases([], tmp_path)
    make(tmp_path, "a/mri.nii", "a/pet.nii")
    with pytest.raises(BundleError, match="must hold a case"):
        require_cases([], tmp_path)
    require_cases(find_cases(tmp_path), tmp_path)
    make(tmp_path, "b/mri.nii")
    with pytest.raises(BundleError, match="add pet"):
        find_cases(tmp_path, allow_empty=True)

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
    (tmp_path / "a" / "case.json").write_text(json.dumps({"aligned": True, "pet_unit": "SUV", "mri_series": "1.2"}))
    make(tmp_path, "sub_2_mri.nii.gz", "sub_2_pet.nii.gz", "sub_2_truth_pet.nii.gz", "sub_2_mask.nii.gz")
    first, second = find_cases(str(tmp_path))
    assert list(first) == ["case", "mri", "pet", "mask", "truth_mri", "truth_pet", "aligned", "pet_unit", "mri_series"]
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
    (case,) = find_cases(make(tmp_path / "set#1", "a/mri.nii", "a/pet.nii"))  # where MONAI's parser has not seen it
    assert case["mri"] == str(tmp_path / "set#1" / "a" / "mri.nii")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "readable JSON"),
        ("[1]", "must be an object, got list"),
        ('{"_aligned": true}', "got '_aligned'; write aligned"),
        ('{"$pet_unit": "SUV"}', "got '.pet_unit'; write pet_unit"),
        ('{"PET-Unit": "SUV"}', "got 'PET-Unit'; write pet_unit"),
        ('{"_target_": "x"}', "got '_target_'; remove it"),
        ('{"aligend": true}', "of case a must be among aligned, .* got 'aligend'; write aligned"),
        ('{"pet_units": "SUV"}', "got 'pet_units'; write pet_unit"),
        ('{"mask_sha256": "x"}', "got 'mask_sha256'; remove it"),
        ('{"blur_share": 1}', "got 'blur_share'; remove it"),
        ('{"pet": "/etc/passwd"}', "must be among aligned, .* got 'pet'"),
        ('{"case": "b"}', "must be among aligned, .* got 'case'"),
        ('{"truth_mri": "x"}', "must be among aligned, .* got 'truth_mri'"),
        ('{"MISS JANE DOE": "x"}', "must be among aligned, .* got one of other letters; remove it"),
        ('{"pet_series": 12}', "pet_series in case.json of case a must be a Series Instance UID"),
        ('{"aligned": "yes"}', "true or false"),
        ('{"aligned": null}', "true or false, got NoneType"),
        ('{"pet_unit": ["SUV"]}', "must be a unit"),
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


@pytest.mark.parametrize("name", ["index", "Cases.old", "dicom", "fused", "con", "LPT1.x", "a.", ".a", "-a", "_a"])
def test_ids_that_would_meet_files_of_the_run_or_of_a_system_are_refused(tmp_path, name):
    """On Windows a dot at the end is left out, and devices have names; a folder that begins with a dot is hidden."""
    with pytest.raises(BundleError, match="Every case id must be at most 128 letters"):
        require_cases([{"case": name, "mri": "m", "pet": "p"}], tmp_path)
    if not name.startswith("."):  # such a folder is passed over
        with pytest.raises(BundleError, match="A case id must be at most 128 letters"):
            find_cases(make(tmp_path, f"{name}/mri.nii", f"{name}/pet.nii"))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"case": "a"}, "got no mri and no pet"),
        ({"case": 3, "mri": "m", "pet": "p"}, "got int in place of a text"),
        ({"mri": "m", "pet": "p"}, "got NoneType in place of a text"),
        ({"case": "a", "mri": "m", "pet": ["p"]}, "pet of case a must be a path, got list"),
        ({"case": "a", "mri": "m", "pet": "p", "pet_scale": 3}, "got 'pet_scale'"),
        ({"case": "a", "mri": "m", "pet": "p", "aligned": 1}, "aligned in case a must be true or false"),
    ],
)
def test_a_list_of_cases_is_checked_before_it_runs(tmp_path, item, message):
    with pytest.raises(BundleError, match=message):
        require_cases([item], tmp_path)


def test_results_in_the_data_folder_are_no_cases(tmp_path):
    make(
        tmp_path, "a/mri.nii", "a/pet.nii", "case/case.json", "case/case_fused.nii.gz", "case/case_mri_restored.nii.gz"
    )
    assert [case["case"] for case in find_cases(tmp_path)] == ["a"]
    make(tmp_path, "a/mri/case/dicom/fused/1.dcm", "a/mri/case/case.json")
    (tmp_path / "a/mri/case/dicom/fused/1.dcm").write_bytes(bytes(128) + b"DICM")
    assert [case["case"] for case in find_cases(tmp_path)] == ["a"]


def test_out_lies_apart_from_inputs_and_from_folders_of_other_cases(tmp_path):
    make(tmp_path, "a/mri.nii", "a/pet.nii", "b/mri.nii", "b/pet.nii")
    cases = find_cases(tmp_path)
    require_cases(cases, tmp_path, tmp_path / "out")
    require_cases(cases[:1], tmp_path, tmp_path / "a" / "out")
    for out, message in (
        (tmp_path, "apart from the inputs, got those of a"),
        (tmp_path / "a", "outside of the folders of cases, got that of a"),
        (tmp_path / "b" / "out", "outside of the folders of cases, got that of b"),
        (tmp_path / "b" / "pet.nii", "OUT must be a folder, got a file"),
    ):
        with pytest.raises(BundleError, match=message):
            require_cases(cases, tmp_path, out)


@pytest.mark.parametrize("place", ["a/pet", "a_pet"])
@pytest.mark.parametrize(
    ("content", "unit"),
    [({"Units": "Bq/mL"}, "Bq/mL"), ({"Unit": "kBq/ml"}, "kBq/ml"), ({"Manufacturer": "none"}, None), ({}, None)],
)
def test_the_sidecar_of_a_pet_of_any_name_says_its_unit(tmp_path, place, content, unit):
    """BIDS PET, Units; the file has the name of the image, as dcm2niix writes it."""
    make(tmp_path, f"{place}.nii.gz", f"{place.removesuffix('pet')}mri.nii.gz")
    (tmp_path / f"{place}.json").write_text(json.dumps(content))
    (case,) = find_cases(tmp_path)
    assert case.get("pet_unit") == unit


def test_a_unit_that_contradicts_the_sidecar_is_refused(tmp_path):
    make(tmp_path, "a/pet.nii.gz", "a/mri.nii.gz")
    (tmp_path / "a" / "pet.json").write_text('{"Units": "Bq/mL"}')
    (tmp_path / "a" / "case.json").write_text('{"pet_unit": "SUV"}')
    with pytest.raises(BundleError, match="must be the one of its sidecar, got SUV, and Bq/mL in the sidecar"):
        find_cases(tmp_path)
    for same in ("Bq/ml", "Bq/cc"):  # 1 ml is 1 cm3
        (tmp_path / "a" / "case.json").write_text(json.dumps({"pet_unit": same}))
        assert find_cases(tmp_path)[0]["pet_unit"] == same


@pytest.mark.parametrize("text", ["[1]", "{", '{"Units": 3}', '{"Units": "Bq/mL", "Unit": "SUV"}'])
def test_a_sidecar_that_cannot_be_used_is_no_silence(tmp_path, text):
    make(tmp_path, "a/pet.nii.gz", "a/mri.nii.gz")
    (tmp_path / "a" / "pet.json").write_text(text)
    with pytest.raises(BundleError, match="of the PET of a must be"):
        find_cases(tmp_path)


@pytest.mark.parametrize("names", [("MR", "PET"), ("MRI", "PET"), ("mr", "pet"), ("T1", "SUV")])
def test_a_folder_of_a_scanner_gives_no_case_its_name(tmp_path, names):
    """`NAME/MR` and `NAME/PET` come from a scanner or an archive: NAME may be that of a patient."""
    for name in names:
        (tmp_path / "Doe^Jane" / name).mkdir(parents=True)
        (tmp_path / "Doe^Jane" / name / "1.dcm").write_bytes(bytes(128) + b"DICM" + bytes(8))
    with pytest.raises(BundleError, match=r"must be called mri and pet .* 1 folder,") as refused:
        find_cases(tmp_path, allow_empty=True)
    assert "Doe" not in str(refused.value)

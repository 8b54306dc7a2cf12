from __future__ import annotations

import json

import pytest

from medfuse.errors import BundleError
from medfuse.io.derivative import case_folder, derivative_name, source_uri, write_dataset


def described(out, root) -> dict:
    write_dataset(out, root)
    return json.loads((out / "dataset_description.json").read_text())


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "studies" / "raw").mkdir(parents=True)
    return tmp_path / "studies" / "raw"


@pytest.mark.parametrize(
    ("source", "case", "options", "name"),
    [
        ("sub-01_T1w.nii.gz", "sub-01", {"desc": "restored"}, "sub-01_desc-restored_T1w"),
        ("sub-01_trc-FDG_pet.nii", "sub-01", {"desc": "fused", "space": "T1w"},
         "sub-01_trc-FDG_space-T1w_desc-fused_pet"),
        ("sub-01_ses-2_task-rest_trc-FDG_rec-acdyn_run-1_pet.nii.gz", "sub-01_ses-2", {"desc": "weight"},
         "sub-01_ses-2_task-rest_trc-FDG_rec-acdyn_run-1_desc-weight_pet"),
        ("sub-01_ses-0_acq-hi_T1w.nii.gz", "sub-01_ses-2", {"desc": "new"}, "sub-01_ses-2_acq-hi_desc-new_T1w"),
        ("sub-01_acq-hi_T1w.nii.gz", "sub-01_ses-2", {"desc": "restored"}, "sub-01_ses-2_acq-hi_desc-restored_T1w"),
        ("sub-01_ses-0_T1w.nii.gz", "sub-01", {"desc": "restored"}, "sub-01_desc-restored_T1w"),
        ("sub-01_foo-x_desc-old_space-MNI_T1w.nii.gz", "sub-01", {"desc": "new"}, "sub-01_desc-new_T1w"),
        ("sub-01_chunk-2_T1w.nii.gz", "sub-01", {"desc": "a", "space": "PET"}, "sub-01_space-PET_chunk-2_desc-a_T1w"),
    ],
)  # fmt: skip
def test_names_keep_what_is_known_of_the_source_in_the_order_of_bids(source, case, options, name):
    assert derivative_name(source, case, **options) == name


def test_folders_and_uris(raw):
    assert case_folder("sub-01") == "sub-01"
    assert case_folder("sub-01_ses-b") == "sub-01/ses-b"
    assert source_uri(raw / "sub-01" / "anat" / "x.nii", raw) == "bids:raw:sub-01/anat/x.nii"


def test_a_derivative_in_or_beside_its_source_links_it(raw):
    inside = described(raw / "derivatives" / "medfuse", raw)
    assert inside["DatasetType"] == "derivative"
    assert inside["GeneratedBy"][0]["Name"] == "medfuse"
    assert inside["GeneratedBy"][0]["Version"]
    assert inside["DatasetLinks"] == {"raw": "../.."}
    assert inside["SourceDatasets"] == [{"URL": "../.."}]
    assert described(raw.parent / "out", raw)["DatasetLinks"] == {"raw": "../raw"}


def test_one_elsewhere_tells_no_path_but_a_doi(raw, tmp_path):
    out = tmp_path / "out"
    described(out, raw)
    told = "".join(p.read_text() for p in out.iterdir())
    assert "studies" not in told
    assert str(tmp_path) not in told
    (raw / "dataset_description.json").write_text(json.dumps({"DatasetDOI": "https://doi.org/10.18112/ds1.v1.0.0"}))
    found = described(out, raw)
    assert found["SourceDatasets"] == [{"DOI": "doi:10.18112/ds1.v1.0.0"}]
    assert found["DatasetLinks"] == {"raw": "doi:10.18112/ds1.v1.0.0"}
    for other in ({"DatasetDOI": "CANARY NAME"}, {"DatasetDOI": 3}, []):
        (raw / "dataset_description.json").write_text(json.dumps(other))
        assert "SourceDatasets" not in described(out, raw)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"GeneratedBy": [{"Name": "petprep"}]}', '{"GeneratedBy": [1]}'])
def test_the_dataset_of_another_program_is_left_alone(raw, tmp_path, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dataset_description.json").write_text(text)
    with pytest.raises(BundleError, match="got another dataset"):
        write_dataset(tmp_path / "out", raw)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["dataset_description.json"]

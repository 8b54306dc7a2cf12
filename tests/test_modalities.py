"""Modalities and units are tables: what follows from a row, and a third bundle, CT with PET, from options to files."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from small_cases import write_pair
from test_canary import scans

from medfuse import cli, fuse
from medfuse.bundles import bundle_dir, case_keys, source_keys
from medfuse.bundles.lint import check_bundle
from medfuse.errors import BundleError
from medfuse.io import discover
from medfuse.io.dicom.write import ucum
from medfuse.io.modalities import DEFAULT_PAIR, MODALITIES, modality, pair, title
from medfuse.io.suv import CHOICES, KINDS, body_size
from medfuse.io.units import UNITS, find_unit, is_comparable

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Return the bundle of docs/how-to/add-a-bundle.md: ours, with another pair of modalities."""
    folder = tmp_path_factory.mktemp("bundles") / "ct_pet_fusion"
    shutil.copytree(bundle_dir("pet_mri_fusion"), folder, ignore=shutil.ignore_patterns("demo", "eval"))
    path = folder / "configs" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"modalities": ["ct", "pet"]}))
    return folder


def write_ct_pet(folder: Path, **fields: object) -> Path:
    write_pair(folder, **fields)
    (folder / "mri.nii.gz").rename(folder / "ct.nii.gz")
    return folder


def write_scans(folder: Path) -> dict[str, scans.Scan]:
    """Write a CT and a PET of one patient and one world as DICOM; the CT is -1024 HU and more."""
    rng = np.random.default_rng(0)
    blob = 900.0 * (np.linalg.norm(np.indices((5, 24, 28)) - [[[[2]]], [[[12]]], [[[14]]]], axis=0) < 9)
    stored = (blob + rng.uniform(0, 90, blob.shape)).astype(np.int16)
    ct = scans.Scan(modality="CT", stored=stored, slopes=(1.0,) * 5, intercept=-1024.0)
    pet = ct.change(modality="PT", intercept=0.0, series="1.2.826.0.1.7.2")
    for name, scan in (("CT", ct), ("PET", pet)):
        datasets = scan.slices()
        for dataset in datasets:
            for agent in dataset.get("RadiopharmaceuticalInformationSequence", []):
                agent.Radiopharmaceutical = "FDG"
        scans.write(datasets, folder / name)
    return {"ct": ct, "pet": pet}


def test_the_tables_load_neither_torch_nor_monai():
    code = "import sys, medfuse.cli, medfuse.io.modalities; print({'torch', 'monai', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "set()\n"


def test_sources_that_are_no_paths_are_refused():
    with pytest.raises(BundleError, match="pet must be a path or a text, got ndarray; `load_fusion` takes tensors"):
        fuse(np.zeros((4, 4, 4)), np.zeros((4, 4, 4)))


def test_no_other_file_names_the_modalities_but_for_defaults():
    found = set()
    for path in (ROOT / "medfuse").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node.args for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Lambda)]
        defaults = {id(n) for a in functions for d in (*a.defaults, *a.kw_defaults) if d for n in ast.walk(d)}
        constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in defaults]
        if any(node.value in DEFAULT_PAIR for node in constants):
            found.add(path.relative_to(ROOT / "medfuse").as_posix())
    published = {"training/datasets.py", "training/packs.py"}  # names of published data
    assert found == {"io/modalities.py", "arguments.py"} | published  # PET is a palette of PS3.6 B, too


def test_every_row_can_be_told_from_the_others():
    rows = MODALITIES.values()
    names = [name for row in rows for name in (row.key, *row.synonyms)]
    codes = [row.dicom for row in rows if row.dicom]
    assert len(set(names)) == len(names)
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+", row.key) for row in rows)
    assert set(DEFAULT_PAIR) <= set(MODALITIES)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (["ct"], "list of two keys"),
        (["ct", "ct"], "one twice"),
        (["ct", "visible"], "a volume and a 2-D image"),
        (["ct", "petr"], "write pet"),
        ("ct, pet", "list of two keys"),
    ],
)
def test_a_bundle_must_name_two_that_can_be_fused(stated, message):
    with pytest.raises(BundleError, match=message):
        pair({"modalities": stated})


def test_bundles_tell_their_modalities(bundle):
    assert source_keys() == tuple(row.key for row in pair({})) == ("mri", "pet")
    assert source_keys("ir_vis_fusion") == ("visible", "infrared")
    assert source_keys(str(bundle)) == ("ct", "pet")
    assert title("pet") == "PET" and title("flair") == "FLAIR"
    with pytest.raises(BundleError, match="medfuse images"):
        case_keys("ir_vis_fusion")
    assert not check_bundle(bundle).findings


def test_every_kind_of_suv_has_a_size_of_the_body():
    sizes = [body_size(kind, weight=70.0, size=1.75, sex="M") for kind in KINDS]
    assert all(size > 0 for size in sizes)
    assert ("auto", *KINDS, "none") == CHOICES


@pytest.mark.parametrize(
    ("text", "name", "code"),
    [
        ("Bq/mL", "Bq/ml", "Bq/ml"),
        ("BQML", "Bq/ml", "Bq/ml"),
        ("suv", "SUV", "{SUVbw}g/ml"),
        ("g/ml{SUVbw}", "SUV", "{SUVbw}g/ml"),
        ("SUVlbm", "SUVlbm", "{SUVlbm}g/ml"),
        ("HU", "HU", "[hnsf'U]"),
        ("GML", "g/ml", "1"),  # an SUV of which nobody says the kind
    ],
)
def test_a_unit_is_known_by_any_spelling(text, name, code):
    assert find_unit(text).name == name
    assert ucum(text).value == code  # PS3.16 CID 84 and 85; "1" is no unit


def test_spellings_mean_one_unit_and_arbitrary_values_are_not_compared():
    assert len({(unit.name, unit.kind) for unit in UNITS}) == len(UNITS)
    assert [is_comparable(text) for text in ("a.u.", "", "counts", "SUV", "Bq/mL", "mg/l")] == [False] * 3 + [True] * 3


def test_help_of_fuse_tells_the_sources_of_the_bundle(bundle, capsys):
    for name, told, untold in ((str(bundle), "--ct CT", "--mri"), ("pet_mri_fusion", "--mri MRI", "--ct")):
        with pytest.raises(SystemExit):
            cli.main(["fuse", "--bundle", name, "--help"])
        text = capsys.readouterr().out
        assert told in text and untold not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--mri", "a/ct.nii.gz", "--pet", "a/pet.nii.gz"],
            "must be given as --pet and --ct, or as --dicom, got --mri",
        ),
        (["--ct", "a/ct.nii.gz"], "CT and PET must be given as --pet and --ct"),
        (["--ct", "a/ct.nii.gz", "--pet", "a/pet.nii.gz", "--n4"], "n4 must come with"),
        (
            ["--ct", "a/ct.nii.gz", "--pet", "a/pet.nii.gz", "--mri-unit", "x"],
            "--mri-unit must come with a bundle of MRI",
        ),
    ],
)
def test_a_source_that_the_bundle_does_not_take_is_one_sentence(
    bundle, options, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write_ct_pet(tmp_path / "a")
    assert cli.main(["fuse", "--bundle", str(bundle), *options, "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not Path("out").exists()


def test_a_ct_is_refused_by_the_bundle_of_pet_and_mri(tmp_path, capsys):
    a = write_ct_pet(tmp_path / "a")
    assert cli.main(["fuse", "--ct", str(a / "ct.nii.gz"), "--pet", str(a / "pet.nii.gz"), "--out", str(tmp_path)]) == 2
    assert "must be given as --pet and --mri, or as --dicom, got --pet and --ct" in capsys.readouterr().err


def test_dicom_of_ct_and_pet_is_fused_in_hu_and_suv(bundle, tmp_path):
    truth = write_scans(tmp_path / "study")
    out = tmp_path / "out"
    words = ["--bundle", str(bundle), "--dicom", str(tmp_path / "study"), "--out", str(out), "--steps", "1"]
    assert cli.main(["fuse", *words]) == 0
    case = out / "case"
    record = json.loads((case / "case.json").read_text())
    assert {k: v["unit"] for k, v in record["sources"].items()} == {"ct": "HU", "pet": "SUV"}
    restored = nib.load(case / "case_ct_restored.nii.gz").get_fdata()
    assert np.abs(restored - truth["ct"].volume).max() < 0.5  # HU: nothing was stated of it, so it came back
    assert restored.min() < -900
    assert "got no unit" not in " ".join(record["warnings"])
    assert {p.name for p in (case / "dicom").iterdir()} == {
        "pet_restored",
        "fused",
        "fused_rgb",
        "fused_rgb_multiframe",
    }
    assert pydicom.dcmread(case / "dicom" / "pet_restored" / "0001.dcm").Units == "GML"
    page = (case / "case_report.html").read_text(encoding="utf-8")
    text = re.sub(r"<script.*?</script>|base64,[^\"]*", "", page, flags=re.DOTALL)
    assert "PET-CT fusion report" in text
    assert not re.search(r".{0,60}\bMRI\b.{0,60}", text)
    assert "PET-CT fusion" in (out / "index.html").read_text(encoding="utf-8")


def test_python_takes_the_sources_by_name(bundle, tmp_path):
    a = write_ct_pet(tmp_path / "a")
    paths = {"ct": a / "ct.nii.gz", "pet": a / "pet.nii.gz"}
    result = fuse(bundle=str(bundle), **paths, pet_unit="SUV", ct_unit="HU", aligned=True, steps=1)
    assert (result.names, result.units) == (("ct", "pet"), ("HU", "SUV"))
    with pytest.raises(BundleError, match="given as ct and pet, got mri, pet"):
        fuse(a / "pet.nii.gz", a / "ct.nii.gz", bundle=str(bundle))
    with pytest.raises(BundleError, match="given as mri and pet, got ct, pet"):
        fuse(**paths)


def test_cases_manifests_and_studies_are_found_by_the_keys_of_the_bundle(bundle, tmp_path):
    keys = source_keys(str(bundle))
    write_ct_pet(tmp_path / "cases" / "a", ct_unit="HU")
    (case,) = discover(tmp_path / "cases", keys=keys).cases
    assert case["ct"].endswith("ct.nii.gz") and case["ct_unit"] == "HU"
    table = tmp_path / "cases" / "table.tsv"
    table.write_text("case\tct\tpet\tct_unit\na\ta/ct.nii.gz\ta/pet.nii.gz\tHU\n")
    assert discover(table, keys=keys).cases[0]["ct_unit"] == "HU"
    write_scans(tmp_path / "studies" / "one")
    (study,) = discover(tmp_path / "studies", keys=keys).cases
    assert set(study) == {"case", "ct", "pet"}
    (tmp_path / "bids" / "sub-01" / "pet").mkdir(parents=True)
    with pytest.raises(BundleError, match="got one of CT, for which BIDS has no place"):
        discover(tmp_path / "bids", keys=keys)


def test_a_batch_of_ct_and_pet(bundle, tmp_path):
    write_ct_pet(tmp_path / "in" / "a", ct_unit="HU")
    words = [
        "batch",
        str(tmp_path / "in"),
        str(tmp_path / "out"),
        "participant",
        "--bundle",
        str(bundle),
        "--steps",
        "1",
    ]
    assert cli.main(words) == 0
    assert (tmp_path / "out" / "a" / "a_ct_restored.nii.gz").is_file()
    assert json.loads((tmp_path / "out" / "a" / "a.json").read_text())["warnings"] == []
    assert modality("ct").unit == "HU"

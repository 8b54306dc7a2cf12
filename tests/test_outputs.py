"""The table of outputs, and what follows from it: names, clearing, and the tables of the documentation."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from threading import Event
from time import sleep
from types import SimpleNamespace

import pytest

from medfuse.pipeline import OUTPUTS, Output, SaveFusiond
from medfuse.pipeline.outputs.dicom import series_of
from medfuse.pipeline.outputs.table import clear, write_outputs

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {"mri": {"unit": "a.u."}, "pet": {"unit": "SUV"}}
RECORD = {"case": "CASE", "sources": SOURCES, "reference": {"source": "mri"}}
TRANSFORM = next(output for output in OUTPUTS if output.name == "rigid")

outputs = pytest.mark.parametrize("output", OUTPUTS, ids=lambda o: o.name)


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """Return the first table under a heading: the other cells of each row, by its first."""
    text = (ROOT / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = re.search(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    cells = [[c.strip() for c in line.strip("|\n").split("|")] for line in table[0].splitlines()[2:]]
    return {first.strip("`"): others for first, *others in cells}


def documented(output: Output) -> str:
    return output.file(RECORD) + ("/" if output.parts else "")


@pytest.mark.parametrize("page", [("docs/reference/outputs.md", "A case"), ("README.md", "What comes out")])
def test_the_docs_have_a_row_for_each_output_and_no_other(page):
    found = rows(*page)
    assert set(found) == {*map(documented, OUTPUTS), "CASE.json"}
    for output in OUTPUTS:
        assert found[documented(output)][-1].startswith(output.described(RECORD)), output.name


@outputs
def test_the_reference_says_the_unit(output):
    unit = rows("docs/reference/outputs.md", "A case")[documented(output)][1]
    assert unit == (f"of the {list(SOURCES)[output.source].upper()}'s file" if output.unit is None else output.unit)


def test_the_reference_says_what_each_volume_is_called_in_bids():
    found = {
        cells[0].strip("`"): file for file, cells in rows("docs/reference/outputs.md", "A BIDS derivative").items()
    }
    named = [o for o in OUTPUTS if o.bids_label is not None]
    assert {o.file(RECORD) for o in named} == {name for name in found if name.startswith("CASE_")}
    for output in named:
        folder, suffix = (("anat", "T1w"), ("pet", "pet"))[output.source]
        assert re.search(rf"{folder}/\*.*_desc-{output.bids_label}_{suffix}\.nii\.gz$", found[output.file(RECORD)])


def test_the_reference_has_a_row_for_each_dicom_series():
    assert list(rows("docs/reference/outputs.md", "DICOM")) == list(series_of("pet"))


def test_the_tutorial_names_files_that_are_there():
    named = {name for name in rows("docs/tutorials/first-fusion.md", "3. What was written") if name != "patient01.json"}
    assert named <= {output.file({**RECORD, "case": "patient01"}) for output in OUTPUTS}


def test_names_are_unique_and_no_two_outputs_share_a_file_or_a_name_in_bids():
    for of in (lambda o: o.name, lambda o: o.file(RECORD), lambda o: (o.source, o.bids_label or o.name)):
        assert len({of(output) for output in OUTPUTS}) == len(OUTPUTS)


@pytest.mark.parametrize(
    ("sources", "reference", "file"),
    [
        (("mri", "pet"), "mri", "c_pet_to_mri.tfm"),
        (("mri", "pet"), "pet", "c_mri_to_pet.tfm"),
        (("ct", "pet"), "ct", "c_pet_to_ct.tfm"),
    ],
)
def test_a_file_is_named_after_what_was_moved(sources, reference, file):
    record = {"case": "c", "sources": dict.fromkeys(sources), "reference": {"source": reference}}
    assert TRANSFORM.file(record) == file


@outputs
@pytest.mark.parametrize(("sources", "reference"), [(("mri", "pet"), "mri"), (("ct", "pet"), "pet")])
def test_each_output_is_cleared_whatever_its_sources_were(output, sources, reference, tmp_path):
    record = {"case": "a[1]", "sources": dict.fromkeys(sources), "reference": {"source": reference}}
    paths = [tmp_path / output.file(record) / part / "1.dcm" for part in output.parts]
    paths = paths or [tmp_path / output.file(record)]
    other = tmp_path / output.file({**record, "case": "a1"})  # which a[1] matches as a pattern
    for path in paths if output.parts else [*paths, other]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    clear(tmp_path, "a[1]")
    assert list(tmp_path.iterdir()) == ([] if output.parts else [other])


def test_an_output_that_is_not_in_the_table_is_cleared_where_it_is_written(tmp_path):
    own = Output("own", "{source2}_own.txt", lambda result, path: None, "", None, "Own")
    for name in ("c_pet_own.txt", "c_pet_mine.txt"):
        (tmp_path / name).touch()
    clear(tmp_path, "c", [own])
    assert [p.name for p in tmp_path.iterdir()] == ["c_pet_mine.txt"]


def test_what_is_written_can_be_chosen_and_dicom_left_out(tmp_path):
    given = {"output_dir": tmp_path, "weights": tmp_path / "model.pt"}
    own = replace(TRANSFORM, name="own", ending="own.txt")
    assert SaveFusiond(**given).outputs == OUTPUTS
    assert {o.name for o in OUTPUTS} - {o.name for o in SaveFusiond(**given, dicom_output=False).outputs} == {"dicom"}
    assert SaveFusiond(**given, outputs=[own]).outputs == (own,)


def empty_case(voxels=1):
    """Return what `write_outputs` itself asks of a case."""
    sources = {name: source | {"sha256": "0"} for name, source in SOURCES.items()}
    record = {"case": "c", "sources": sources, "reference": {"source": "mri"}}
    return SimpleNamespace(case="c", record=record, fused=SimpleNamespace(numel=lambda: voxels))


@pytest.mark.parametrize(("voxels", "most"), [(1, 2), (512 * 512 * 400, 1)])
def test_outputs_of_a_large_case_are_written_one_after_another(tmp_path, voxels, most):
    at_work, seen = [], []

    def write(result, path):
        at_work.append(path)
        sleep(0.05)
        seen.append(len(at_work))
        at_work.remove(path)

    outputs = [Output(f"own{k}", f"own{k}.txt", write, "", None, "own") for k in range(4)]
    write_outputs(empty_case(voxels), tmp_path, outputs)
    assert len(seen) == 4 and max(seen) == most


def test_an_output_that_fails_stops_those_that_were_not_begun(tmp_path):
    failed, begun = Event(), []

    def slow(result, path):
        assert failed.wait(10)
        begun.append(path.name)

    def full(result, path):
        failed.set()
        raise OSError("no space left")

    def another(result, path):
        begun.append(path.name)
        sleep(0.05)

    writers = {"slow": slow, "full": full, **{f"other{k}": another for k in range(20)}}
    outputs = [Output(name, f"{name}.txt", write, "", None, name) for name, write in writers.items()]
    with pytest.raises(OSError, match="no space left"):
        write_outputs(empty_case(), tmp_path, outputs)
    assert "c_slow.txt" in begun
    assert len(begun) < 20
    assert not (tmp_path / "c.json").exists(), "a case that is not complete has no record"

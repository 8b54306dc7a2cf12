from __future__ import annotations

import time

import pytest

from medfuse.errors import BundleError
from medfuse.io import discover, manifest, match_manifest
from medfuse.io.manifest import read_manifest


@pytest.fixture
def table(tmp_path):
    for name in ("m.nii.gz", "p.nii.gz", "k.nii.gz"):
        (tmp_path / name).write_bytes(b"")

    def write(text, name="cases.tsv"):
        path = tmp_path / name
        path.write_bytes(text.encode())
        return path

    return write


def test_all_columns(table, tmp_path):
    header = "case\tmri\tpet\taligned\tpet_unit\tmri_series\tpet_series\tmask\n"
    path = table(
        f"{header}b\tm.nii.gz\tp.nii.gz\tyes\tSUV\t1.2.3\t1.2.4\tk.nii.gz\n\na\tm.nii.gz\tp.nii.gz\tn/a\t\t\t\t\n"
    )
    found = discover(path)
    assert found.layout == "manifest"
    files = {"mri": str(tmp_path / "m.nii.gz"), "pet": str(tmp_path / "p.nii.gz")}
    fields = {"aligned": True, "pet_unit": "SUV", "mri_series": "1.2.3", "pet_series": "1.2.4"}
    assert found.cases == [{"case": "a", **files}, {"case": "b", **files, "mask": str(tmp_path / "k.nii.gz"), **fields}]


def test_csv_with_quotes_a_byte_order_mark_and_windows_lines(table):
    path = table('\ufeffCase,pet,mri\r\na,"p.nii.gz",m.nii.gz\r\n', "cases.CSV")
    assert [c["case"] for c in discover(path).cases] == ["a"]


def test_paths_may_be_absolute_and_folders(table, tmp_path):
    path = table(f"case\tmri\tpet\na\t{tmp_path / 'm.nii.gz'}\t.\n")
    assert read_manifest(path)[0]["mri"] == str(tmp_path / "m.nii.gz")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got no case and no mri and no pet"),
        ("case\tmri\n", "got no pet"),
        ("case\tmri\tpet\n", "a row for each case, got none"),
        ("case\tmri\tpet\tCANARY\n", r"got unknown ones \(number 4\)"),
        ("case\tmri\tpet\tpet\n", "got one twice"),
        ("case\tmri\tpet\na\tm.nii.gz\n", "Row 2 of the manifest must have 3 cells, got 2"),
        ("case\tmri\tpet\nCANARY^NAME\tm.nii.gz\tp.nii.gz\n", "case in row 2"),
        ("case\tmri\tpet\n..\tm.nii.gz\tp.nii.gz\n", "case in row 2"),
        ("case\tmri\tpet\n\tCANARY\tp.nii.gz\n", "case in row 2"),
        ("case\tmri\tpet\na\tm.nii.gz\tp.nii.gz\na\tm.nii.gz\tp.nii.gz\n", "one row, got more for a"),
        ("case\tmri\tpet\na\tm.nii.gz\tp.nii.gz\nA\tm.nii.gz\tp.nii.gz\n", "upper and lower case"),
        ('case\tmri\tpet\na\t"m.nii.gz\n', "must be a readable TSV"),
    ],
)
def test_a_wrong_table_is_one_clear_sentence(table, text, message):
    with pytest.raises(BundleError, match=message) as caught:
        read_manifest(table(text))
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\0", b"case\tmri\tpet\n\xe9\n"])
def test_another_encoding_is_refused(tmp_path, content):
    (tmp_path / "t.tsv").write_bytes(content)
    with pytest.raises(BundleError, match="in UTF-8"):
        read_manifest(tmp_path / "t.tsv")


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        ("mask", "CANARY.nii.gz\tp.nii.gz\t", "mri of case a must be a file or folder, got none there"),
        ("mask", "m.nii.gz\t\t", "pet of case a must be given, got an empty cell"),
        ("mask", "m.nii.gz\tp.nii.gz\tCANARY", "mask of case a must be a file"),
        ("aligned", "m.nii.gz\tp.nii.gz\tCANARY", "aligned of case a must be true or false"),
        ("pet_unit", "m.nii.gz\tp.nii.gz\tCANARY NAME", "pet_unit of case a must be a unit"),
        ("pet_series", "m.nii.gz\tp.nii.gz\tCANARY", "pet_series of case a must be a Series Instance UID"),
    ],
)
def test_a_wrong_row_fails_its_case_alone(table, column, cells, message):
    path = table(f"case\tmri\tpet\t{column}\na\t{cells}\nb\tm.nii.gz\tp.nii.gz\t\n")
    first, second = read_manifest(path)
    assert message in first["problem"]
    assert "CANARY" not in str(first)
    assert "problem" not in second


def test_the_sidecar_of_a_pet_says_its_unit(table, tmp_path):
    (tmp_path / "p.json").write_text('{"Units": "Bq/mL"}')
    path = table("case\tmri\tpet\tpet_unit\na\tm.nii.gz\tp.nii.gz\t\nb\tm.nii.gz\tp.nii.gz\tSUV\n")
    first, second = discover(path).cases
    assert first["pet_unit"] == "Bq/mL"
    assert "must be the one of its sidecar" in second["problem"]


def test_a_transform_is_a_file_of_the_last_source(table, tmp_path):
    header = "case\tmri\tpet\tpet_transform\n"
    good, bad = read_manifest(table(f"{header}a\tm.nii.gz\tp.nii.gz\tk.nii.gz\nb\tm.nii.gz\tp.nii.gz\tCANARY\n"))
    assert good["pet_transform"] == str(tmp_path / "k.nii.gz")
    assert bad == {
        "case": "b",
        "problem": "pet_transform of case b must be a file or folder, got none there; check its path.",
    }
    with pytest.raises(BundleError, match="unknown ones"):
        read_manifest(table("case\tmri\tpet\tmri_transform\n"))


def test_a_long_table_is_read_in_a_time_that_grows_with_its_rows(table):
    """Ids compared each with all took 16 s for 10,000 rows, 25 times as long for 50,000; one pass takes a second."""
    rows = "".join(f"c{n}\tm.nii.gz\tp.nii.gz\n" for n in range(50_000))
    path = table(f"case\tmri\tpet\n{rows}")
    begin = time.process_time()
    assert len(read_manifest(path)) == 50_000
    assert time.process_time() - begin < 60


@pytest.mark.parametrize("row", ["a\tm.nii.gz\tp.nii.gz\n", "\n"], ids=["rows", "empty lines"])
@pytest.mark.parametrize(("limit", "value"), [("MAX_LINES", 10), ("MAX_BYTES", 100)])
def test_a_table_without_end_is_refused_before_its_rows_are_looked_at(table, monkeypatch, limit, value, row):
    monkeypatch.setattr(manifest, limit, value)
    path = table("case\tmri\tpet\n" + row * 101)
    with pytest.raises(BundleError, match=r"must have at most .* got more; divide it into several"):
        read_manifest(path)
    with pytest.raises(BundleError, match=r"must have at most .* got more; divide it into several"):
        match_manifest(path)


def test_a_table_of_as_many_rows_as_may_be_is_read(table, monkeypatch):
    monkeypatch.setattr(manifest, "MAX_LINES", 2)
    assert len(read_manifest(table("case\tmri\tpet\na\tm.nii.gz\tp.nii.gz\nb\tm.nii.gz\tp.nii.gz\n"))) == 2


def test_a_message_names_the_first_of_many(table):
    rows = "".join(f"c{n}\tm.nii.gz\tp.nii.gz\n" * 2 for n in range(9))
    with pytest.raises(BundleError, match=r"got more for c0, c1, c2, \.\.\.; rename"):
        read_manifest(table(f"case\tmri\tpet\n{rows}"))
    with pytest.raises(BundleError, match=r"unknown ones \(number 4, 5, 6, \.\.\.\)"):
        read_manifest(table("case\tmri\tpet" + "\tCANARY" * 1000 + "\n"))

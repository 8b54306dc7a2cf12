from __future__ import annotations

import json

import pytest

from medfuse.errors import MedfuseError
from medfuse.io.atomic import atomic_file, atomic_folder, atomic_path, require_writable, write_json


@pytest.mark.parametrize("durable", [False, True])
def test_file_appears_whole_and_alone(tmp_path, durable):
    target = tmp_path / "new" / "a.bin"
    with atomic_file(target, durable=durable) as file:
        file.write(b"abc")
        assert not target.exists()
    assert target.read_bytes() == b"abc"
    assert [p.name for p in target.parent.iterdir()] == ["a.bin"]


def test_error_keeps_the_old_file_and_leaves_nothing(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_file(target) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_failed_rename_leaves_nothing(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError), atomic_path(tmp_path / "taken") as temporary:
        temporary.write_bytes(b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_path_keeps_suffix_and_folder(tmp_path):
    target = tmp_path / "case.nii.gz"
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"x")
    assert target.read_bytes() == b"x"


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    (tmp_path / "ordinary").write_bytes(b"")
    with atomic_file(tmp_path / "atomic") as file:
        file.write(b"x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_json_round_trip(tmp_path):
    value = {"chi_square": 1.02, "unit": "SUV", "name": "é"}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_what_is_no_json_is_refused_and_not_written(tmp_path, value):
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "a.json", {"a": value})
    assert not list(tmp_path.iterdir())


def test_a_folder_appears_whole_and_replaces_an_older_one(tmp_path):
    target = tmp_path / "new" / "series"
    for names in (["a", "b"], ["c"]):
        with atomic_folder(target) as temporary:
            for name in names:
                (temporary / name).write_bytes(b"x")
        assert sorted(p.name for p in target.iterdir()) == names
        assert [p.name for p in target.parent.iterdir()] == ["series"]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path):
    target = tmp_path / "series"
    target.mkdir()
    (target / "old").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as temporary:
        (temporary / "half").write_bytes(b"x")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["series"]
    assert [p.name for p in target.iterdir()] == ["old"]


def test_a_folder_cannot_replace_a_file(tmp_path):
    (tmp_path / "taken").write_bytes(b"x")
    with pytest.raises(OSError), atomic_folder(tmp_path / "taken"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_a_place_that_cannot_be_written_to_is_told_before_any_work(tmp_path):
    require_writable(tmp_path / "new" / "folder")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(MedfuseError, match="OUT must be a folder that can be written to"):
            require_writable(place)

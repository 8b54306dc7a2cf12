"""Pairs of 2-D images: by their shapes, by the names in two folders, by a table."""

from __future__ import annotations

import numpy as np
import pytest

from medfuse.errors import BundleError, GeometryError, ImageError
from medfuse.io.image_pairs import check_pair, match_folders, match_manifest
from medfuse.io.images import Image2D


def image(*shape, value=None):
    array = np.linspace(0, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    return Image2D(array if value is None else np.full(shape, value, np.float32), 8, "png")


@pytest.mark.parametrize(("small", "factor"), [((9, 12), 1), ((5, 6), 2), ((3, 4), 3), ((3, 3), 4)])
def test_pair_gives_the_factor(small, factor):
    assert check_pair(image(9, 12), image(*small)) == factor


def test_unfit_pairs_are_refused():
    for shape in ((9, 11), (4, 6), (18, 24), (9, 6)):
        with pytest.raises(GeometryError, match=r"smaller by 2 or 3 or 4, got"):
            check_pair(image(9, 12), image(*shape))
    assert check_pair(image(9, 12), image(9, 12, value=0)) == 1
    with pytest.raises(ImageError, match="two constant"):
        check_pair(image(9, 12, value=1), image(9, 12, value=0))


def folders(tmp_path, first, second):
    for folder, names in (("one", first), ("two", second)):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_bytes(b"")
    return tmp_path / "one", tmp_path / "two"


def test_folders_match_by_stem(tmp_path):
    one, two = folders(tmp_path, ("b.png", "a.tif", "notes.txt", ".c.png"), ("a.npy", "b.PNG"))
    assert match_folders(one, str(two)) == [("a", one / "a.tif", two / "a.npy"), ("b", one / "b.png", two / "b.PNG")]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (("a.png", "b.png"), ("a.png",), "got 1 without one in source2: b;"),
        (("a.png",), ("a.png", "b.png"), "got 1 without one in source1: b;"),
        (tuple("abcde.png"[i] + ".png" for i in range(5)), ("a.png",), r"got 4 .* b, c, d, \.\.\."),
        (("a.png", "a.tif"), ("a.png",), "a.png and a.tif"),
        ((), ("a.png",), "source1 must hold images"),
        (("a.png",), ("a.txt",), "source2 must hold images"),
    ],
)
def test_unmatched_folders_are_refused(tmp_path, first, second, message):
    with pytest.raises(BundleError, match=message):
        match_folders(*folders(tmp_path, first, second))


def test_absent_folder_is_refused(tmp_path):
    with pytest.raises(BundleError, match="source1 must be a folder"):
        match_folders(tmp_path / "absent", tmp_path)


def table(tmp_path, text, name="pairs.tsv"):
    folders(tmp_path, ("a.png", "b.tif", "c.txt"), ("x.jpg", "y.png"))
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_a_table_lists_pairs(tmp_path):
    path = table(tmp_path, "source1,Source2,name\none/b.tif,two/x.jpg,night-1\none/a.png,two/y.png,n/a\n", "p.csv")
    one, two = tmp_path / "one", tmp_path / "two"
    assert match_manifest(path) == [
        ("a", one / "a.png", two / "y.png"),
        ("night-1", one / "b.tif", two / "x.jpg"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source1\n", "columns source1, source2, got no source2"),
        ("source1\tsource2\tmri\n", "source1, source2, name, got unknown"),
        ("source1\tsource2\n", "got none"),
        ("source1\tsource2\none/a.png\n", "Row 2 of the manifest must have 2 cells, got 1"),
        ("source1\tsource2\none/a.png\ttwo/z.png\n", "source2 in row 2 .* no such file"),
        ("source1\tsource2\none/c.txt\ttwo/x.jpg\n", "source1 in row 2 .* no such file"),
        ("source1\tsource2\none/a.png\t\n", "source2 in row 2 .* no such file"),
        ("source1\tsource2\tname\none/a.png\ttwo/x.jpg\t../a\n", "name in row 2"),
        ("source1\tsource2\none/a.png\ttwo/x.jpg\none/a.png\ttwo/y.png\n", "got a twice"),
        ("source1\tsource2\tname\none/a.png\ttwo/x.jpg\t\none/b.tif\ttwo/y.png\tA\n", "upper and lower case"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, text, message):
    with pytest.raises(BundleError, match=message):
        match_manifest(table(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.tsv", "a file, got none at 'absent.tsv'"),
        ("one", "a file, got none"),
        ("one/a.png", "readable TSV or CSV"),
    ],
)
def test_a_table_of_another_kind_is_refused(tmp_path, name, message):
    table(tmp_path, "")
    with pytest.raises(BundleError, match=message):
        match_manifest(tmp_path / name)

"""The colour fusion by its words: in the command line, and in folders of images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medfuse import arguments, cli, read_back
from medfuse.errors import BundleError
from medfuse.fusion.color import BLENDS, COLOUR_MAPS
from medfuse.fusion.rule import RULES
from medfuse.io import read_image, write_image
from medfuse.pipeline import fuse_images


@pytest.fixture
def folders(tmp_path):
    """Return folders of an MRI and a PET, 8-bit, 32 x 40."""
    rng = np.random.default_rng(0)
    for kind, std in (("mri", 1.5), ("pet", 4)):
        image = gaussian_filter(rng.standard_normal((32, 40)), std)
        write_image(tmp_path / kind / "a.png", (image - image.min()) / np.ptp(image), bits=8)
    return tmp_path / "mri", tmp_path / "pet"


def test_the_words_of_the_command_line_are_those_of_the_maps_and_rules():
    assert tuple(name.upper() for name in arguments.PALETTES) == COLOUR_MAPS
    assert (BLENDS, tuple(RULES)) == (arguments.BLENDS, arguments.FUSION_RULES)


def test_a_folder_of_images_gets_colours_of_which_both_come_back(folders, tmp_path):
    """Nothing happened to the sources, so what is read back is what was given: 8 bits in, some levels of 255 off."""
    fuse_images(*folders, tmp_path / "out", device="cpu", steps=1, palette="oklab")
    record = json.loads((tmp_path / "out" / "images.json").read_text())
    assert record["display"] == {"palette": "OKLAB", "blend": None, "windows": [[0.0, 1.0], [0.0, 1.0]]}
    rgb = read_image(tmp_path / "out" / "color" / "a.png", color=True).array
    for found, folder in zip(read_back(rgb), folders, strict=True):
        assert np.abs(found - read_image(folder / "a.png").array).mean() < 0.01
    fuse_images(*folders, tmp_path / "out", device="cpu", steps=1)  # which wants none, and leaves none of the old
    assert json.loads((tmp_path / "out" / "images.json").read_text())["display"] is None
    assert not list((tmp_path / "out" / "color").glob("*.png"))


def test_colours_of_a_bundle_in_colour_are_refused(folders, tmp_path):
    with pytest.raises(BundleError, match="palette must come with a bundle of grey images"):
        fuse_images(*folders, tmp_path / "out", bundle="ir_vis_fusion", device="cpu", palette="PET")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--blend", "alpha"], "--blend must come with a --palette other than oklab"),
        (["--blend", "luma", "--palette", "gray_inverted"], "--blend must be alpha with gray_inverted"),
    ],
)
def test_a_blend_that_means_nothing_is_refused_before_anything_is_loaded(options, message, folders, tmp_path, capsys):
    words = ["images", "--source1", str(folders[0]), "--source2", str(folders[1]), "--out", str(tmp_path / "out")]
    assert cli.main([*words, *options]) == 2
    assert message in capsys.readouterr().err

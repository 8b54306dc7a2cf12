"""Help, errors and reports name a page of the documentation, and the page is there."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medfuse import cli, guide
from medfuse.errors import BundleError, DegradationError, DicomError, ImageError, MedfuseError
from medfuse.io.suv.tags import UnknownError
from medfuse.report.markup import section

ROOT = Path(__file__).resolve().parents[1]


def commands() -> dict:
    (choices,) = (action.choices for action in cli._parser()._actions if action.dest == "command")
    return choices


def test_every_page_that_is_named_is_there() -> None:
    named = {guide.HOME, *guide.COMMANDS.values(), *guide.SECTIONS.values(), *guide._ERRORS.values()}
    assert {name for name in named if not (ROOT / name).is_file()} == set()


def test_every_command_has_a_page_and_its_help_ends_with_it() -> None:
    assert set(guide.COMMANDS) == set(commands())
    for name, command in commands().items():
        assert command.format_help().strip().endswith(f"Documentation: {guide.COMMANDS[name]}")


def test_every_kind_of_error_leads_to_a_page() -> None:
    kinds = [MedfuseError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        assert (ROOT / guide.page("batch", kind("x"))).is_file()
    assert guide.page("fuse", DegradationError("x")) == "docs/how-to/describe-a-degradation.md"
    for kind in (DicomError, UnknownError):  # a kind of a kind has its page, too
        assert guide.page("fuse", kind("x")) == "docs/how-to/fuse-dicom.md"
    assert guide.page("batch", BundleError("no such input")) == "docs/how-to/fuse-many-cases.md"
    assert guide.page("images", ImageError("x")) == "docs/how-to/fuse-image-folders.md"


@pytest.mark.parametrize(
    ("more", "page"),
    [
        (("--degradation", "wrong"), "docs/how-to/describe-a-degradation.md"),
        ((), "docs/tutorials/first-fusion.md"),
    ],
)
def test_an_error_is_one_line_that_ends_with_its_page(tmp_path, capsys, more, page) -> None:
    nib.save(nib.Nifti1Image(np.ones((4, 4), np.float32), np.eye(4)), tmp_path / "flat.nii.gz")  # no volume
    flat = str(tmp_path / "flat.nii.gz")
    assert cli.main(["fuse", "--pet", flat, "--mri", flat, "--out", str(tmp_path / "out"), *more]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("medfuse: error: ") and last.endswith(f" (see {page})")


def test_sections_of_a_report_name_their_page() -> None:
    assert "Documentation: docs/how-to/check-the-registration.md" in section("registration", "Registration")
    assert "Documentation" not in section("failures", "Could not be fused")

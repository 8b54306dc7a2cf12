"""The command line, as a user calls it: in a process of its own where that matters."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medfuse import cli


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "medfuse", *args], capture_output=True, text=True, check=False)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of three 8-bit images; the second source of the last is half as large."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:64, 0:80]
    for i, name in enumerate(("a", "b", "c")):
        disc = ((y - 32) ** 2 + (x - 40) ** 2 < 500) * 150.0
        for source, factor in (("one", 1), ("two", 2 if name == "c" else 1)):
            image = disc[::factor, ::factor] + rng.normal(0, 10, disc[::factor, ::factor].shape) + 10 * i
            (tmp_path / source).mkdir(exist_ok=True)
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(tmp_path / source / f"{name}.png")
    return tmp_path / "one", tmp_path / "two"


def test_help_loads_neither_torch_nor_monai():
    code = "import sys; from medfuse import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'monai', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Research use only" in done.stdout
    assert done.stderr.strip() == "[]"


def test_info_names_bundles_presets_and_versions():
    done = run("info")
    assert done.returncode == 0
    for word in ("bundle pet_mri_fusion", "composite", "torch 2", "Research use only"):
        assert word in done.stdout


def test_images_writes_all_kinds_in_the_input_format(folders, tmp_path, capsys):
    out = tmp_path / "out"
    sources = ["--source1", str(folders[0]), "--source2", str(folders[1]), "--truth1", str(folders[0])]
    code = cli.main(["images", *sources, "--out", str(out), "--steps", "1", "--degradation", "noise"])
    assert code == 0
    assert "source1: PSNR" in capsys.readouterr().out
    for kind in ("fused", "source1", "source2", "weight"):
        assert sorted(p.name for p in (out / kind).iterdir()) == ["a.png", "b.png", "c.png"]
        with Image.open(out / kind / "c.png") as image:
            assert (image.mode, image.size) == ("L", (80, 64))
    record = json.loads((out / "images.json").read_text())
    assert record["notice"].startswith("Research use only")
    assert len(record["weights_sha256"]) == 64
    assert set(record["against_truth"]["source1"]["images"]) == {"a", "b", "c"}
    assert (out / "contact_sheet.png").stat().st_size > 10_000


def test_images_of_an_earlier_run_do_not_stay_beside_those_of_another(folders, tmp_path):
    out = tmp_path / "out"
    command = ["images", "--source1", str(folders[0]), "--source2", str(folders[1]), "--out", str(out), "--steps", "1"]
    assert cli.main(command) == 0
    (out / "fused" / "mine.png").touch()
    for folder in folders:
        (folder / "c.png").unlink()
    assert cli.main([*command, "--format", "npy"]) == 2  # the results of c would be lost
    assert (out / "fused" / "c.png").is_file()
    assert cli.main([*command, "--format", "npy", "--replace"]) == 0
    assert json.loads((out / "images.json").read_text())["images"] == ["a", "b"]
    assert sorted(p.name for p in (out / "fused").iterdir()) == ["a.npy", "b.npy", "mine.png"]


@pytest.mark.parametrize("kind", ["source2", "fused"])
def test_images_are_not_written_over_their_inputs(folders, tmp_path, capsys, kind):
    folders[1].rename(tmp_path / kind)
    before = (tmp_path / kind / "a.png").read_bytes()
    command = ["images", "--source1", str(folders[0]), "--source2", str(tmp_path / kind), "--out", str(tmp_path)]
    assert cli.main(command) == 2
    assert f"out must not hold the inputs, got them in '{kind}'" in capsys.readouterr().err
    assert (tmp_path / kind / "a.png").read_bytes() == before


def test_a_file_where_a_folder_must_be_is_refused_before_work(folders, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "weight").touch()
    command = ["images", "--source1", str(folders[0]), "--source2", str(folders[1]), "--out", str(tmp_path / "out")]
    assert cli.main(command) == 2
    assert "must be a folder that can be written to" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["weight"]


def test_floats_on_another_scale_are_refused(folders, tmp_path, capsys):
    with Image.open(folders[1] / "a.png") as image:
        np.save(folders[1] / "a.npy", np.asarray(image).astype(np.float32))
    (folders[1] / "a.png").unlink()
    command = ["images", "--source1", str(folders[0]), "--source2", str(folders[1]), "--out", str(tmp_path / "out")]
    assert cli.main(command) == 1
    assert "a failed: source2 must be in 0..1 where it has floats" in capsys.readouterr().err


def test_a_truth_that_is_no_folder_is_refused(folders, tmp_path, capsys):
    command = ["images", "--source1", str(folders[0]), "--source2", str(folders[1]), "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--truth2", str(tmp_path / "none")]) == 2
    assert "truth2 must be a folder, got no folder 'none'" in capsys.readouterr().err


def test_clean_images_come_back_untouched(folders, tmp_path):
    for name in ("c.png",):
        (folders[0] / name).unlink()
        (folders[1] / name).unlink()
    given = ["--source1", str(folders[0]), "--source2", str(folders[1]), "--out", str(tmp_path)]
    assert cli.main(["images", *given, "--degradation", "none"]) == 0
    for kind, folder in zip(("source1", "source2"), folders, strict=True):
        for name in ("a.png", "b.png"):
            with Image.open(folder / name) as before, Image.open(tmp_path / kind / name) as after:
                assert np.array_equal(np.asarray(before), np.asarray(after))


def test_npy_keeps_floats_and_batches_do_not_matter(folders, tmp_path):
    from medfuse.pipeline import fuse_images

    for batch in (1, 2):
        fuse_images(*folders, tmp_path / str(batch), steps=2, file_format="npy", batch=batch)
    for name in ("a", "b", "c"):
        one, two = (np.load(tmp_path / str(b) / "fused" / f"{name}.npy") for b in (1, 2))
        assert one.dtype == np.float32
        assert np.abs(one - two).max() < 1e-2 * np.ptp(one)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: (b / "b.png").unlink(), "partner"),
        (lambda a, b: [p.unlink() for p in a.iterdir()], "image"),
        (lambda a, b: [p.write_bytes(b"") for p in b.iterdir()], "a: source2 must be a PNG"),
        (lambda a, b: [(f / "b.png").rename(f / "A.png") for f in (a, b)], "more than upper and lower case"),
    ],
)
def test_images_refuse_what_is_wrong_as_a_whole_and_write_nothing(folders, tmp_path, capsys, change, message):
    change(*folders)
    out = tmp_path / "out"
    assert cli.main(["images", "--source1", str(folders[0]), "--source2", str(folders[1]), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: Image.new("L", (50, 50), 3).save(b / "b.png"), "as large as source1"),
        (lambda a, b: (b / "b.png").write_bytes((b / "b.png").read_bytes()[:90]), "source2 must be a whole image"),
        (lambda a, b: np.save(b / "b.npy", np.full((64, 80), np.nan, np.float32)) or (b / "b.png").unlink(), "NaN"),
        (lambda a, b: Image.new("RGB", (80, 64), (9, 99, 3)).save(a / "b.png"), "source1 must be grey, got colour"),
        (lambda a, b: (b / "b.png").write_bytes(b""), "source2 must be a PNG, TIFF, JPEG or BMP image"),
        (lambda a, b: [Image.new("L", (80, 64), 3).save(f / "b.png") for f in (a, b)], "two constant images"),
    ],
)
def test_one_bad_pair_does_not_stop_the_others(folders, tmp_path, capsys, change, message):
    change(*folders)
    out = tmp_path / "out"
    command = ["images", "--source1", str(folders[0]), "--source2", str(folders[1]), "--out", str(out), "--steps", "1"]
    assert cli.main(command) == 1
    printed = capsys.readouterr()
    assert "medfuse: b failed: " in printed.err and message in printed.err
    assert "2 images, 1 failed" in printed.out
    record = json.loads((out / "images.json").read_text())
    assert record["images"] == ["a", "c"] and list(record["sources"]) == ["a", "c"]
    assert message in record["failed"]["b"] and str(tmp_path) not in record["failed"]["b"]
    assert sorted(p.name for p in (out / "fused").iterdir()) == ["a.png", "c.png"]
    assert sorted(p.name for p in out.iterdir() if p.is_file()) == ["contact_sheet.png", "images.json"]


def test_unknown_preset_bundle_device_and_absent_file(folders, tmp_path, capsys):
    pair = ["--source1", str(folders[0]), "--source2", str(folders[1]), "--out", str(tmp_path / "out")]
    for extra, message in (
        (["--degradation", "fog"], "must be one of"),
        (["--bundle", "nothing"], "the bundle must be one of"),
        (
            ["--device", "abacus"],
            "--device must be auto, or one of this machine such as cpu or cuda:0, got 'abacus'",
        ),
    ):
        assert cli.main(["images", *pair, *extra]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["fuse", "--pet", "absent.nii", "--mri", "absent.nii", "--out", str(tmp_path / "out")]) == 2
    assert "absent.nii" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("steps", ["0", "-1", "two"])
def test_steps_must_be_a_positive_integer(steps, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["images", "--source1", "a", "--source2", "b", "--out", "c", "--steps", steps])
    assert stop.value.code == 2
    assert "at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--case", "../x", "at most 128 letters"),
        ("--case", "x" * 129, "at most 128 letters"),
        ("--pet-unit", "SUV of Mrs X", "must be a unit such as Bq/mL or SUV"),
        ("--pet-unit", "<b>", "must be a unit such as Bq/mL or SUV"),
        ("--pet-unit", "", "must be a unit such as Bq/mL or SUV"),
    ],
)
def test_fuse_refuses_what_may_not_be_in_names_and_outputs(tmp_path, capsys, option, text, message):
    """Before it looks at the volumes, of which there are none."""
    call = ["fuse", "--mri", "none.nii", "--pet", "none.nii", "--out", str(tmp_path / "out"), option, text]
    assert cli.main(call) == 2
    said = capsys.readouterr().err
    assert option in said and message in said
    assert not (tmp_path / "out").exists()


MISTYPED = (
    (["fusee"], "invalid choice: 'fusee'"),
    (["fuse", "--pett", "x", "--out", "o"], "unrecognized arguments"),
    (["fuse", "--mri", "m.nii", "--out", "o"], "got --mri"),
    (["fuse", "--mri", "m.nii", "--pet", "p.nii", "--out", "o"], "m.nii must be a file, got none there"),
    (["fuse", "--mri", ".", "--pet", ".", "--out", "o", "--degradation", "fog"], "a degradation must be one of"),
    (["fuse", "--mri", ".", "--pet", ".", "--out", "o", "--case", "index"], "no reserved name, got 'index'"),
    (["fuse", "--mri", ".", "--pet", ".", "--out", "y" * 300], "OUT must have names of at most 255 bytes"),
    (["fuse", "--mri", "m" * 300, "--pet", ".", "--out", "o"], "--mri must have names of at most 255 bytes"),
    (
        ["fuse", "--mri", ".", "--pet", ".", "--out", "o", "--degradation", "y" * 300 + ".yaml"],
        "--degradation must have",
    ),
    (["batch", "i" * 300, "o", "participant"], "The input must have names of at most 255 bytes"),
    (["batch", "i/" * 3000, "o", "participant"], "and 4095 in all"),
    (["batch", "absent", "o", "participant"], "The input must be a folder, or a manifest in .tsv or .csv, got nothing"),
    (["batch", ".", "o", "participant", "--overlay", "absent.yaml"], "An overlay must be a YAML or JSON file"),
    (["batch", ".", "o", "participant", "--overlay", "o" * 300], "--overlay must have names"),
    (["batch", ".", "o", "participant", "--bundle", "b" * 300], "--bundle must have names"),
    (["images", "--source1", "absent", "--source2", ".", "--out", "o"], "source1 must be a folder"),
    (["evaluate", "--source1", ".", "--source2", ".", "--fused", "absent", "--out", "o"], "fused must be a folder"),
    (["images", "--manifest", "absent.tsv", "--out", "o"], "The manifest must be a file, got none at 'absent.tsv'"),
    (["bundle", "check", "fog"], "the bundle must be one of"),
    (["bundle", "check", "f" * 300], "BUNDLE_OR_CONFIG must have names"),
    (["demo", "--bundle", "fog"], "the bundle must be one of"),
    (["dicom", "absent"], "The DICOM folder must exist"),
    (["dicom", "d" * 300], "The DICOM folder must have names"),
)


def test_a_mistyped_command_is_one_sentence_and_loads_neither_torch_nor_monai(tmp_path):
    """All in one process, which has none of them loaded in the end."""
    code = f"""
import contextlib, io, json, sys
from medfuse import cli
said = []
for words, _ in {MISTYPED!r}:
    with contextlib.redirect_stderr(io.StringIO()) as error:
        try:
            code = cli.main(words)
        except SystemExit as stop:
            code = stop.code
    said.append((code, error.getvalue()))
print(json.dumps([said, sorted({{'torch', 'monai', 'numpy', 'pydicom'}} & set(sys.modules))]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    said, loaded = json.loads(done.stdout)
    assert loaded == []
    for (words, message), (code, error) in zip(MISTYPED, said, strict=True):
        assert code == 2, words
        last = error.strip().splitlines()[-1]
        assert message in last and "error: " in last, error
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_too_long_in_the_middle_of_a_path_is_one_sentence_in_python_too(tmp_path):
    from medfuse.errors import known_error

    with pytest.raises(OSError) as caught:
        (tmp_path / ("x" * 300)).stat()
    assert "Names of files and folders must be as short as the file system wants" in str(known_error(caught.value))


def test_images_are_not_written_among_the_inputs(folders, capsys):
    """The contact sheet would be an image without a partner the next time."""
    before = sorted(p.name for p in folders[0].iterdir())
    assert (
        cli.main(["images", "--source1", str(folders[0]), "--source2", str(folders[1]), "--out", str(folders[0])]) == 2
    )
    assert "out must be another folder than those of the inputs" in capsys.readouterr().err
    assert sorted(p.name for p in folders[0].iterdir()) == before


def test_the_unit_of_a_pet_is_held_against_its_sidecar(tmp_path, capsys):
    """The console reads `pet.json` beside `pet.nii.gz`, as case folders do: BIDS PET, Units."""
    for name in ("mri", "pet"):
        nib.save(
            nib.Nifti1Image(np.random.default_rng(0).random((16, 16, 4), np.float32), np.eye(4)),
            tmp_path / f"{name}.nii",
        )
    (tmp_path / "pet.json").write_text('{"Units": "Bq/mL"}')
    command = ["fuse", "--mri", str(tmp_path / "mri.nii"), "--pet", str(tmp_path / "pet.nii"), "--out"]
    assert cli.main([*command, str(tmp_path / "out"), "--pet-unit", "SUV"]) == 2
    assert "must be the one of its sidecar, got SUV, and Bq/mL in the sidecar" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main([*command, str(tmp_path / "out"), "--aligned", "--steps", "1", "--no-dicom"]) == 0
    record = json.loads((tmp_path / "out" / "case" / "case.json").read_text())
    assert record["sources"]["pet"]["unit"] == "Bq/mL"

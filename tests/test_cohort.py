"""A plan of many cases: packs of equal work, parts that are no whole, what is missing, and a script for Slurm."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_cases import results, same_bytes, table, truncate, write_pair
from test_batch_bids import raw, write_session  # noqa: F401  (a fixture)

from medfuse import cli
from medfuse.cohort import cases_of, make_plan, read_plan, status
from medfuse.cohort.sizes import expected_seconds, megavoxels
from medfuse.errors import BundleError
from medfuse.io import Discovery, discover
from medfuse.io.claims import claim
from medfuse.pipeline.overlap import overlapped

KEYS = ("mri", "pet")


@pytest.fixture
def data(tmp_path) -> Path:
    """Five cases, of which one cannot be fused."""
    for seed, name in enumerate("abcde"):
        write_pair(tmp_path / "data" / name, seed=seed, shape=(16, 16, 3))
    truncate(tmp_path / "data" / "d" / "pet.nii.gz")
    return tmp_path / "data"


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


def test_parts_of_a_plan_make_the_whole_to_the_byte(quick, data, tmp_path, capsys):
    out, options = tmp_path / "out", ["--steps", 1, "--device", "cpu"]
    assert run("plan", data, out, "--packs", 2) == 0
    assert "5 cases" in capsys.readouterr().out
    assert run("status", out) == 3
    assert capsys.readouterr().out.splitlines()[0] == "5 cases: 0 done, 0 failed, 5 missing"
    codes = [run("batch", data, out, "participant", "--shard", "1/2", *options)]
    told = capsys.readouterr().out
    assert "part 1 of 2 of 2 packs, 3 cases" in told
    assert "2 of 5 cases are missing" in told
    assert not (out / "cases.tsv").exists()  # a part is no whole: `group` makes table and page
    assert run("batch", data, out, "group") == 0
    assert "2 of 5 cases are missing" in capsys.readouterr().out
    assert run("status", out) == 3
    assert "part 2 of 2; 2 missing" in capsys.readouterr().out
    codes.append(run("batch", data, out, "participant", "--shard", "2/2", *options))
    capsys.readouterr()
    assert sorted(codes) == [0, 1]  # the part with the bad case
    assert run("status", out, "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["done"], told["missing"], told["seconds_left"]) == (4, [], 0)
    assert told["failed"]["d"].startswith("pet must be a whole gzip file")
    assert run("batch", data, out, "group") == 0
    assert "missing" not in capsys.readouterr().out
    run("batch", data, tmp_path / "whole", "participant", "--workers", 0, *options)
    same_bytes(results(out), results(tmp_path / "whole"))
    assert [(r["case"], r["state"]) for r in table(out)] == [(r["case"], r["state"]) for r in table(tmp_path / "whole")]
    truncate(data / "e" / "pet.nii.gz")
    (out / "e" / "e_done.json").unlink()
    assert run("status", out) == 3


def test_workers_change_no_byte(quick, data, tmp_path):
    for workers in (0, 1, 3):
        run("batch", data, tmp_path / str(workers), "participant", "--steps", 1, "--workers", workers)
    for workers in (1, 3):
        same_bytes(results(tmp_path / str(workers)), results(tmp_path / "0"))


def test_a_bids_plan_runs_where_the_input_lies_elsewhere(quick, raw, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "derivatives"
    assert run("plan", raw, out, "--packs", 3, "--participant-label", "02") == 0
    plan = read_plan(out)
    assert (plan.layout, plan.packs, [c.case for c in plan.cases]) == (
        "BIDS dataset", 2, ["sub-02_ses-a", "sub-02_ses-b"],
    )  # fmt: skip
    assert str(tmp_path) not in (out / "plan.tsv").read_text() + (out / ".medfuse" / "plan.json").read_text()
    there = raw.rename(tmp_path / "elsewhere")
    aligned = tmp_path / "aligned.yaml"
    aligned.write_text("aligned: true\n")
    words = ["batch", there, out, "participant", "--shard", "1/1", "--steps", 1, "--overlay", aligned]
    assert run(*words) == 0
    assert (out / "sub-02" / "ses-a" / "pet").is_dir()
    assert "plan.tsv" in (out / ".bidsignore").read_text().split()
    assert run("status", out) == 0
    capsys.readouterr()
    assert run(*words, "--participant-label", "02") == 2
    assert "Labels must come with `medfuse plan`" in capsys.readouterr().err


def planned(seconds: list[float], packs: int | None = None, **options):
    """A plan of cases of such lengths, by their sizes, which are patched."""
    items = [{"case": f"c{k:04d}", "mri": f"{k}/mri.nii", "pet": f"{k}/pet.nii"} for k in range(len(seconds))]
    return make_plan(Discovery("case folders", items), "in", "out", sources=KEYS, packs=packs, **options)


@pytest.mark.parametrize("packs", [1, 2, 3, 7, 40])
def test_packs_are_of_equal_work(monkeypatch, packs):
    """Longest first into the emptiest: no pack beyond the mean by more than a case (Graham 1969)."""
    rng = np.random.default_rng(0)
    sizes = rng.lognormal(0, 1, 40)
    monkeypatch.setattr("medfuse.cohort.plan.megavoxels", lambda path: sizes[int(Path(path).parts[-2])])
    plan = planned([0.0] * 40, packs)
    work = [sum(case.seconds for case in plan.pack(k)) for k in range(1, packs + 1)]
    assert sum(len(plan.pack(k)) for k in range(1, packs + 1)) == 40
    longest = max(case.seconds for case in plan.cases)
    assert max(work) <= max(longest, 4 / 3 * sum(work) / packs + 1e-6)
    assert plan == planned([0.0] * 40, packs)


def test_as_many_packs_as_take_the_time_that_is_wanted(monkeypatch):
    monkeypatch.setattr("medfuse.cohort.plan.megavoxels", lambda path: 7.2)
    seconds = expected_seconds(7.2, 1, native=2 * 7.2)  # the MRI may tell the PSF of the PET
    assert planned([0.0] * 100, minutes=10).packs == -(-100 * seconds // 600)
    assert planned([0.0] * 100, minutes=10, steps=3).packs > planned([0.0] * 100, minutes=10).packs
    assert planned([0.0] * 3, packs=9).packs == 3


def test_sizes_are_those_of_the_header(tmp_path):
    for name, kind in (("a.nii.gz", nib.Nifti1Image), ("b.nii", nib.Nifti2Image), ("c.NII.GZ", nib.Nifti1Image)):
        kind(np.zeros((10, 20, 30, 2), np.uint8), np.eye(4)).to_filename(tmp_path / name.lower())
        assert megavoxels(tmp_path / name.lower()) == 10 * 20 * 30 * 2 / 1e6
    big = nib.Nifti1Image(np.zeros((10, 20, 30), ">f4"), np.eye(4), nib.Nifti1Header(endianness=">"))
    big.to_filename(tmp_path / "big.nii")
    assert megavoxels(tmp_path / "big.nii") == 0.006
    (tmp_path / "dicom" / "x").mkdir(parents=True)
    (tmp_path / "dicom" / "x" / "1.dcm").write_bytes(bytes(2000))
    assert megavoxels(tmp_path / "dicom") == 0.001
    (tmp_path / "bad.nii.gz").write_bytes(b"no")
    assert [megavoxels(tmp_path / name) for name in ("bad.nii.gz", "absent.nii")] == [0, 0]


def test_the_time_left_is_of_what_was_measured(monkeypatch, tmp_path):
    """Ten cases expected alike, of which five took thrice that: five more take thrice as well."""
    monkeypatch.setattr("medfuse.cohort.plan.megavoxels", lambda path: 1.0)
    plan = planned([0.0] * 10, 2)
    for case in plan.cases[:5]:
        (tmp_path / case.case).mkdir()
        (tmp_path / case.case / f"{case.case}_done.json").write_text(json.dumps({"seconds": 3 * case.seconds}))
    assert sum(pack.seconds_left for pack in status(plan, tmp_path).packs) == pytest.approx(15 * plan.cases[0].seconds)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["status", "OUT2"], "OUT must hold a plan, got none"),
        (["slurm", "DATA", "OUT2"], "OUT must hold a plan, got none"),
        (["batch", "DATA", "OUT", "participant", "--shard", "1/3"], "N at most the packs of the plan, 2, got 1/3"),
        (
            ["batch", "LIST", "OUT", "participant", "--shard", "1/2"],
            "The input must be what the plan in OUT was made of",
        ),
        (["slurm", "DATA", "OUT", "--", "--shard", "1/2"], "Options must be of fusing"),
        (["slurm", "DATA", "OUT", "--", "--degradation", "nosuch"], "a degradation must be one of"),
        (["slurm", "DATA", "OUT", "--", "--overlay", "nosuch.yaml"], "An overlay must be a YAML or JSON file"),
        (["batch", "DATA", "OUT3", "participant", "--labels", "x.tsv", "--dry-run"], "--labels must come with --mask"),
        (["plan", "DATA", "DATA"], "OUT must lie apart from the inputs"),
        (["plan", "DATA/absent", "OUT"], "The input must be a folder, or a manifest"),
    ],
)
def test_wrong_usage_is_one_sentence(data, tmp_path, capsys, words, message):
    assert run("plan", data, tmp_path / "out", "--packs", 2) == 0
    (tmp_path / "list.tsv").write_text("case\tmri\tpet\na\tdata/a/mri.nii.gz\tdata/a/pet.nii.gz\n")
    places = {"DATA": data, "OUT2": tmp_path / "none", "OUT3": tmp_path / "new", "OUT": tmp_path / "out"}
    places["LIST"] = tmp_path / "list.tsv"
    for word, place in places.items():
        words = [str(place) + w.removeprefix(word) if w.startswith(word) else w for w in words]
    capsys.readouterr()
    assert run(*words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--derivatives", "fmriprep"], ["--mask", "x"], ["--uncertainty", "fast"], ["--reference", "1"]]
)
def test_a_plan_takes_no_option_of_fusing(data, tmp_path, capsys, words):
    """A plan does not keep them: they would have no effect on `batch --shard`, which takes them itself."""
    with pytest.raises(SystemExit):
        run("plan", data, tmp_path / "out", *words)
    assert "unrecognized arguments" in capsys.readouterr().err


def test_a_plan_of_a_manifest_is_void_when_the_manifest_changes(data, tmp_path):
    manifest = tmp_path / "list.csv"
    manifest.write_text("case,mri,pet\none,data/a/mri.nii.gz,data/a/pet.nii.gz\n")
    assert run("plan", manifest, tmp_path / "out") == 0
    plan = read_plan(tmp_path / "out")
    assert cases_of(plan, manifest, (1, 1), sources=KEYS) == discover(manifest).cases
    with pytest.raises(BundleError, match="for ct and pet, the sources of the bundle"):
        cases_of(plan, manifest, (1, 1), sources=("ct", "pet"))
    manifest.write_text(manifest.read_text().replace("one", "two"))
    with pytest.raises(BundleError, match="plan it anew"):
        cases_of(plan, manifest, (1, 1), sources=KEYS)


def test_no_name_of_a_folder_is_shown(tmp_path, capsys):
    (tmp_path / "CANARY^NAME").mkdir()
    write_pair(tmp_path / "CANARY^NAME" / "a", shape=(8, 8, 2))
    manifest = tmp_path / "list.csv"
    manifest.write_text("case,mri,pet\none,CANARY^NAME/a/mri.nii.gz,CANARY^NAME/a/pet.nii.gz\ntwo,CANARY^NAME/b,\n")
    assert run("plan", manifest, tmp_path / "out") == 0
    assert "2 cases, 1 of which cannot be fused" in capsys.readouterr().out
    assert "CANARY" not in (tmp_path / "out" / "plan.tsv").read_text()
    assert (tmp_path / "out" / ".medfuse").stat().st_mode & 0o077 == 0


def test_a_claim_is_one_process_alone_and_ends_with_it(tmp_path):
    code = f"from medfuse.io.claims import claim; claim({str(tmp_path / 'a')!r}); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as other:
        assert other.stdout.readline() == b"held\n"
        assert claim(tmp_path / "a") is None
        assert claim(tmp_path / "b") is not None
        other.kill()
    held = claim(tmp_path / "a", wait=True)
    assert held is not None
    held.release()
    assert not (tmp_path / ".lock-a").exists()


def test_one_after_the_other_holds_a_claim(tmp_path):
    """Whoever waits on a file that its holder removes must not hold a claim beside one who makes it anew."""
    inside, most, lock = [0], [0], threading.Lock()

    def work() -> None:
        for _ in range(40):
            held = claim(tmp_path / "a", wait=True)
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            with lock:
                inside[0] -= 1
            held.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_stages_overlap_in_order_and_in_bounds(workers):
    read, written = [], []

    def compute(item: int) -> int:
        assert len(read) - len(written) <= 3 * workers + 2  # read ahead, in hand, behind
        return item

    given = overlapped(
        range(20), lambda k: read.append(k) or k, compute, lambda k: written.append(k) or k, workers=workers
    )
    assert list(given) == list(range(20))
    assert sorted(read) == list(range(20))

    def fail(item: int) -> int:
        raise KeyError(item)

    with pytest.raises(KeyError):
        list(overlapped(range(20), lambda k: k, fail, lambda k: k, workers=workers))


def test_the_script_is_for_sbatch(data, tmp_path, capsys):
    out = tmp_path / "results of 'x'"
    assert run("plan", data, out, "--packs", 3) == 0
    capsys.readouterr()
    words = ["slurm", data, out, "--threads", 4, "--at-once", 2, "--", "--degradation", "noise"]
    assert run(*words) == 0
    script = capsys.readouterr().out
    for line in ("--array=1-3%2", "--cpus-per-task=4", "--requeue", "--mem=1700M", "--time=30", "--open-mode=append"):
        assert f"#SBATCH {line}\n" in script
    assert "export OMP_NUM_THREADS=4\n" in script
    echo = script.replace("exec ", 'printf "%s\\n" ')
    called = subprocess.run(
        ["bash", "-c", echo], env={"SLURM_ARRAY_TASK_ID": "2", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
        check=True,
    ).stdout.splitlines()  # fmt: skip
    assert called[called.index("batch") :] == [
        "batch", str(data), str(out), "participant", "--resume", "--shard", "2/3", "--degradation", "noise",
    ]  # fmt: skip
    assert subprocess.run(["bash", "-c", script], env={"PATH": "/usr/bin:/bin"}, capture_output=True).returncode != 0
    assert run(*words[:-3], "--image", tmp_path / "m.sif") == 0
    script = capsys.readouterr().out
    assert f"apptainer run --cleanenv --env OMP_NUM_THREADS=4 --bind {data}:{data}:ro " in script

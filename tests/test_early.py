"""A registration begun beside the loading of MONAI: the same result as later, and no error of its own."""

import gc
import json
import os
import sys
from argparse import Namespace

import numpy as np
import pytest

from medfuse import beside, early
from medfuse.early import early_start, loading, share_no_products
from medfuse.io import write_nifti
from medfuse.registration import ahead, register_rigid
from medfuse.registration.ahead import Pair, registered


def pair(value=0.0):
    rng = np.random.default_rng(0)
    still, mobile = (rng.random((8, 9, 10), dtype=np.float32) for _ in range(2))
    still[0, 0, 0] += value
    return Pair(still, np.eye(4), mobile, np.diag([2.0, 2, 2, 1]))


@pytest.fixture
def calls(monkeypatch):
    made = []

    def register(*volumes, **options):
        made.append(options)
        return register_rigid(*volumes, **options)

    monkeypatch.setattr(ahead, "register_rigid", register)
    yield made
    beside.give_up()


@pytest.fixture
def files(tmp_path):
    for name, values in (("mri", pair().fixed), ("pet", pair().moving)):
        write_nifti(tmp_path / f"{name}.nii.gz", values, np.eye(4))
    return {name: tmp_path / f"{name}.nii.gz" for name in ("mri", "pet")}


def options(**change):
    told = {"bundle": "pet_mri_fusion", "aligned": False, "n4": False, "dry_run": False}
    return Namespace(**told | {"nonfinite": "error", "strict": False, "suv": "auto"} | change)


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(early, "_cores", lambda: 2)
    yield
    gc.unfreeze()


def same(one, other):
    return one.to_dict() == other.to_dict()


def test_what_was_begun_is_taken_once(calls, files, nothing_is_loaded):
    with early_start(options(**files)):
        pass
    read = pair()._replace(moving_affine=np.eye(4))
    first = registered(read)
    assert not calls
    assert same(registered(read), first)  # and done here where it is asked for again, to the same bits
    assert len(calls) == 1


@pytest.mark.parametrize(
    "other",
    [pair(1.0), pair(), pair()._replace(fixed=pair().fixed.transpose(1, 0, 2), moving_affine=np.eye(4))],
)
def test_another_pair_is_registered_by_itself(calls, files, nothing_is_loaded, other):
    with early_start(options(**files)):
        pass
    assert same(registered(other), register_rigid(*other))
    assert len(calls) == 1
    assert not beside._begun


def test_other_options_are_not_those_that_were_begun_with(calls, files, nothing_is_loaded):
    with early_start(options(**files)):
        pass
    registered(pair()._replace(moving_affine=np.eye(4)), seed=2)
    assert calls == [{"seed": 2}]


def test_an_error_while_reading_is_left_to_who_reads_later(calls, files, nothing_is_loaded):
    files["pet"].write_bytes(b"none")
    with early_start(options(**files, suv="none")):
        assert beside._begun
    registered(pair())
    assert len(calls) == 1


@pytest.mark.parametrize("text", ["print('half', end='')", "raise SystemExit(3)", "print('one')"])
def test_a_process_that_ends_too_soon_has_said_nothing(tmp_path, monkeypatch, text):
    (tmp_path / "ends_soon.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    beside.begin("ends_soon", [])
    lines = [beside.next_line() for _ in range(2)]
    assert lines == (["one", ""] if "one" in text else ["", ""])
    beside.give_up()
    assert beside.next_line() == ""


def test_what_was_begun_before_is_given_up(tmp_path, monkeypatch):
    (tmp_path / "waits.py").write_text("import sys, time\nprint(sys.argv[1], flush=True)\ntime.sleep(600)\n")
    monkeypatch.syspath_prepend(tmp_path)
    beside.begin("waits", ["one"])
    (first,) = beside._begun
    beside.begin("waits", ["two"])
    assert first.returncode is not None
    assert beside.next_line() == "two"
    beside.give_up()


DOSE = {"Units": "Bq/mL", "InjectedRadioactivity": 300.0, "InjectedRadioactivityUnits": "MBq"}


@pytest.mark.parametrize(
    ("suv", "sidecar", "is_begun"), [("auto", DOSE, False), ("none", DOSE, True), ("auto", {}, True)]
)
def test_a_pet_whose_values_become_suv_is_not_begun_with(
    calls, files, tmp_path, nothing_is_loaded, suv, sidecar, is_begun
):
    """What is read early are the values of the file: a registration of others would run for nothing."""
    (tmp_path / "pet.json").write_text(json.dumps(sidecar))
    with early_start(options(**files, suv=suv)):
        assert bool(beside._begun) == is_begun


def test_no_garbage_is_looked_for_while_libraries_are_loaded_for_the_first_time(monkeypatch):
    with loading():
        assert gc.isenabled()  # torch is there
    monkeypatch.delitem(sys.modules, "torch")
    try:
        with pytest.raises(ImportError), loading():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


@pytest.mark.parametrize(("given", "loaded", "expected"), [(None, False, "1"), ("3", False, "3"), (None, True, None)])
def test_products_of_numpy_take_one_thread_unless_the_environment_says_how_many(monkeypatch, given, loaded, expected):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")  # so that what is set below is undone with the test
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    if given:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", given)
    if not loaded:
        monkeypatch.delitem(sys.modules, "numpy")
    share_no_products()
    assert os.environ.get("OPENBLAS_NUM_THREADS") == expected


@pytest.mark.parametrize("change", [{}, {"aligned": True}, {"n4": True}, {"dry_run": True}, {"pet": None}])
def test_two_nifti_that_are_not_aligned_are_begun_with(calls, files, nothing_is_loaded, change):
    with early_start(options(**files | change)):
        assert len(beside._begun) == (not change)


@pytest.mark.parametrize(("loaded", "cores"), [(True, 2), (False, 1)])
def test_nothing_is_begun_where_there_is_nothing_to_gain(monkeypatch, files, loaded, cores):
    monkeypatch.setattr(early, "_cores", lambda: cores)
    if not loaded:
        monkeypatch.delitem(sys.modules, "torch")
    with early_start(options(**files)):
        assert not beside._begun
    gc.unfreeze()

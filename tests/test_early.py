"""A registration begun while MONAI is loaded: the same result as one that is begun later, and no error of its own."""

import gc
import json
import os
import sys
import threading
from argparse import Namespace

import numpy as np
import pytest

from medfuse.early import early_start, loading, share_no_products
from medfuse.errors import MedfuseError
from medfuse.io import write_nifti
from medfuse.registration import ahead
from medfuse.registration.ahead import Pair, begun, registered


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
        return float(volumes[0].sum() - volumes[2].sum())

    monkeypatch.setattr(ahead, "register_rigid", register)
    yield made
    for thread in threading.enumerate():  # one that goes on would count among the calls of the next test
        if thread.name == "medfuse-register":
            thread.join(timeout=30)


def test_what_was_begun_is_taken_once(calls):
    interval = sys.getswitchinterval()
    with begun(pair):
        assert sys.getswitchinterval() < interval
    assert sys.getswitchinterval() == interval
    first = registered(pair())
    assert len(calls) == 1
    assert registered(pair()) == first  # and done again where it is asked for again
    assert len(calls) == 2


@pytest.mark.parametrize(
    "other",
    [pair(1.0), pair()._replace(moving_affine=np.eye(4)), pair()._replace(fixed=pair().fixed.transpose(1, 0, 2))],
)
def test_another_pair_is_registered_by_itself(calls, other):
    with begun(pair):
        pass
    assert registered(other) == pytest.approx(other.fixed.sum() - other.moving.sum(), abs=1e-5)


def test_other_options_are_not_those_that_were_begun_with(calls):
    with begun(pair):
        pass
    registered(pair(), seed=2)
    assert {"seed": 2} in calls


def test_an_error_while_reading_is_left_to_who_reads_later(calls):
    def read():
        raise MedfuseError("no such file")

    with begun(read):
        pass
    registered(pair())
    assert len(calls) == 1


DOSE = {"Units": "Bq/mL", "InjectedRadioactivity": 300.0, "InjectedRadioactivityUnits": "MBq"}


@pytest.mark.parametrize(
    ("suv", "sidecar", "is_begun"), [("auto", DOSE, False), ("none", DOSE, True), ("auto", {}, True)]
)
def test_a_pet_whose_values_become_suv_is_not_begun_with(calls, tmp_path, suv, sidecar, is_begun):
    """What is read early are the values of the file: a registration of others would run for nothing."""
    ahead._begun.clear()
    for name, values in (("mri", pair().fixed), ("pet", pair().moving)):
        write_nifti(tmp_path / f"{name}.nii.gz", values, np.eye(4))
    (tmp_path / "pet.json").write_text(json.dumps(sidecar))
    given = {name: tmp_path / f"{name}.nii.gz" for name in ("mri", "pet")} | {"bundle": "pet_mri_fusion", "suv": suv}
    given |= {"aligned": False, "n4": False, "dry_run": False, "nonfinite": "error", "strict": False}
    with early_start(Namespace(**given)):
        pass
    assert bool(ahead._begun) == is_begun


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
def test_two_nifti_that_are_not_aligned_are_begun_with(calls, tmp_path, change):
    ahead._begun.clear()
    for name, values in (("mri", pair().fixed), ("pet", pair().moving)):
        write_nifti(tmp_path / f"{name}.nii.gz", values, np.eye(4))
    given = {name: tmp_path / f"{name}.nii.gz" for name in ("mri", "pet")}
    given |= {"bundle": "pet_mri_fusion", "aligned": False, "n4": False, "dry_run": False}
    given |= {"nonfinite": "error", "strict": False, "suv": "auto"} | change
    with early_start(Namespace(**given)):
        pass
    assert len(ahead._begun) == (not change)
    if not change:  # what is read early is what MONAI's reader gives later
        registered(pair()._replace(moving_affine=np.eye(4)))
        assert len(calls) == 1

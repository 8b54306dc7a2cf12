"""Several time frames in one PET series: the same choice of frames as of NIfTI."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medfuse.errors import DicomError, ImageError
from medfuse.io import DicomReader, list_series
from medfuse.io.dynamic import FRAMES

HALF_LIFE = 6586.2
TIMES = ((0, 60), (60, 120), (180, 600))  # start and duration, s
DECAYED = 370e6 * 2 ** (-3600 / HALF_LIFE)  # the injection was an hour before


def clock(seconds: float) -> str:
    whole = 11 * 3600 + 30 * 60 + int(seconds)
    return f"{whole // 3600:02}{whole // 60 % 60:02}{whole % 60:02}.00"


@pytest.fixture
def dynamic(pet, save, tmp_path):
    """Return the function that writes a dynamic series, and its frames [T, X, Y, Z]."""

    def write(change=lambda dataset, frame, number: None, times=TIMES):
        rng, datasets, frames = np.random.default_rng(3), [], []
        for t, (start, duration) in enumerate(times):
            scan = pet.change(stored=rng.integers(0, 2000, pet.stored.shape).astype(np.int16))
            frames.append(scan.volume)
            for k, dataset in enumerate(scan.slices()):
                number = t * len(scan.stored) + k + 1
                dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.7.2.{number}"
                dataset.InstanceNumber = dataset.ImageIndex = number
                dataset.SeriesType, dataset.NumberOfTimeSlices = ["DYNAMIC", "IMAGE"], len(times)
                dataset.NumberOfSlices = len(scan.stored)
                dataset.AcquisitionTime, dataset.ActualFrameDuration = clock(start), duration * 1000
                dataset.FrameReferenceTime = (start + duration / 2) * 1000
                dataset.DecayFactor = 2 ** ((start + duration / 2) / HALF_LIFE)
                change(dataset, t, k)
                datasets.append(dataset)
        rng.shuffle(datasets)
        return save(datasets, tmp_path / "dynamic")[0].parent, np.array(frames)

    return write


def test_the_average_of_all_is_weighted_by_duration_and_told(dynamic):
    folder, frames = dynamic()
    volume, meta = DicomReader().get_data((folder,))
    expected = np.average(frames, axis=0, weights=[60, 120, 600]) * 70000 / DECAYED
    assert np.allclose(volume, expected, rtol=1e-5)
    assert meta["unit"] == "SUV"
    record = json.loads(meta[FRAMES])
    assert (record["count"], record["frames"], record["end_s"]) == (3, "1-3", 780)
    assert record["start_after_injection_s"] == 3600
    assert "The PET is dynamic: the average of its 3 frames, 0 to 780 s" in record["warnings"][0]
    assert ", 3 time frames" in list_series(folder).series[0].describe()


@pytest.mark.parametrize(
    ("choice", "chosen"), [("2", [1]), ("2-3", [1, 2]), ("60-780s", [1, 2]), ("63-73min-pi", [2]), ("0-3min", [0, 1])]
)
def test_frames_are_chosen(dynamic, choice, chosen):
    folder, frames = dynamic()
    volume, _ = DicomReader(frames=choice, suv="none").get_data((folder,))
    expected = np.average(frames[chosen], axis=0, weights=[TIMES[k][1] for k in chosen])
    assert np.allclose(volume, expected, rtol=1e-5)


def test_a_frame_that_is_not_there_is_refused(dynamic):
    with pytest.raises(ImageError, match="from 1 to 3, got 4"):
        DicomReader(frames="4").get_data((dynamic()[0],))


def test_by_frame_reference_time_where_all_acquisitions_are_one(dynamic):
    def same(dataset, frame, number):
        dataset.AcquisitionTime = clock(0)

    folder, frames = dynamic(same)
    volume, meta = DicomReader(frames="2-3", suv="none").get_data((folder,))
    assert np.allclose(volume, np.average(frames[1:], axis=0, weights=[120, 600]), rtol=1e-5)
    assert json.loads(meta[FRAMES])["start_s"] == pytest.approx(60, abs=0.2)


def test_a_scan_may_begin_before_the_injection(dynamic):
    def inject(dataset, frame, number):
        dataset.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartTime = "113030"

    folder, frames = dynamic(inject)
    volume, meta = DicomReader(frames="3").get_data((folder,))
    assert np.allclose(volume, frames[2] * 70000 / (370e6 * 2 ** (30 / HALF_LIFE)), rtol=1e-5)
    assert "warnings" not in meta["suv"]


def test_frames_that_are_corrected_to_their_own_starts_are_brought_to_one_time(dynamic):
    def own(dataset, frame, number):
        dataset.DecayFactor = 2 ** (TIMES[frame][1] / 2 / HALF_LIFE)

    folder, frames = dynamic(own, ((0, 60), (60, 120), (7200, 600)))
    volume, meta = DicomReader(frames="3").get_data((folder,))
    assert np.allclose(volume, frames[2] * 2 ** (7200 / HALF_LIFE) * 70000 / DECAYED, rtol=1e-5)
    assert "corrected to its own start" in json.loads(meta[FRAMES])["warnings"][0]


def test_what_is_no_whole_series_of_frames_is_refused(dynamic, tmp_path):
    folder, _ = dynamic()
    next(iter(sorted(folder.iterdir()))).unlink()
    with pytest.raises(DicomError, match=r"must have (one grid|the 5 slices)|a gap of"):
        DicomReader().get_data((folder,))


def test_a_gated_series_is_refused(dynamic):
    def gated(dataset, frame, number):
        dataset.SeriesType = ["GATED", "IMAGE"]
        dataset.AcquisitionTime, dataset.FrameReferenceTime, dataset.ActualFrameDuration = clock(0), 300000, 600000

    folder, _ = dynamic(gated)
    with pytest.raises(DicomError, match="one image at each place"):
        DicomReader().get_data((folder,))

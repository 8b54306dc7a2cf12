"""What headers say of how sharp an image can be (PS3.3 C.8.9.1, C.7.6.2, C.8.3.1)."""

import json

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset

from medfuse.io.acquisition import Acquisition, sidecar_acquisition
from medfuse.io.dicom.acquisition import read_acquisition
from medfuse.io.dicom.values import Values
from medfuse.io.dynamic import PetNiftiReader


def read(**elements):
    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return read_acquisition(Values(dataset))


@pytest.mark.parametrize(
    ("kernel", "width"),
    [
        ("XYZ Gauss4.00", 4.0),
        ("XYZGAUSSIAN5.00", 5.0),
        (["Body Filter", "6.4 mm"], 6.4),
        ("STANDARD", None),
        ("Gauss 40", None),  # wider than any filter
    ],
)
def test_the_filter_is_read_from_the_name_of_the_kernel(kernel, width):
    assert read(ConvolutionKernel=kernel).filter_mm == width


def test_thickness_and_matrix_are_read_and_nonsense_says_nothing():
    found = read(SliceThickness=3.27, AcquisitionMatrix=[0, 256, 192, 0])
    assert found == Acquisition(None, pytest.approx(3.27), (256, 192))
    assert found.record == {"thickness_mm": pytest.approx(3.27), "matrix": (256, 192)}
    assert read(SliceThickness=0).thickness_mm is None
    assert read().record == {}


@pytest.mark.parametrize(
    ("method", "known"),
    [
        ("PSF+TOF 2i21s", True),
        ("TrueX", True),
        ("VPFXS", True),
        ("VPFX", False),
        ("3D-OSEM", False),
        ("BLOB-OS-TF", False),
        ("OSEM3D_PSF", True),
        ("VPFX-S", True),
        ("Point-Spread Function modelling Time Of Flight", True),  # as PET2BIDS writes it of `PSF+TOF`
    ],
)
def test_a_reconstruction_that_models_the_psf_is_known_by_its_name(method, known):
    assert read(ReconstructionMethod=method).models_psf == known
    assert sidecar_acquisition({"ReconMethodName": method}).models_psf == known


@pytest.mark.parametrize(
    ("fields", "width"),
    [
        ({"ReconFilterType": "Gaussian", "ReconFilterSize": 5}, 5.0),
        ({"ReconFilterType": ["Shepp", "Gaussian"], "ReconFilterSize": [0.5, 4.5]}, 4.5),
        ({"ReconFilterType": "gaussian", "ReconFilterSize": [5, 5, 4]}, 4.0),  # of each axis
        ({"ConvolutionKernel": "XYZ Gauss5.00"}, 5.0),  # by dcm2niix
        ({"ReconFilterType": "Hann", "ReconFilterSize": 4}, None),  # no Gaussian
        ({"ReconFilterType": "none", "ReconFilterSize": 0}, None),
        ({"ReconFilterType": "Gaussian", "ReconFilterSize": "unknown"}, None),
        ({"ReconFilterType": "Gaussian", "ReconFilterSize": True}, None),
        ({"ReconFilterType": "Gaussian", "ReconFilterSize": 40}, None),  # wider than any filter
        ({"ReconFilterSize": 5}, None),  # of what, nobody knows
        ({"ReconFilterType": {"a": 1}, "ReconFilterSize": {"b": 2}}, None),
    ],
)
def test_the_filter_is_read_from_a_sidecar_of_bids(fields, width):
    assert sidecar_acquisition(fields).filter_mm == width


def test_the_sidecar_of_a_pet_is_read_with_it(tmp_path):
    nib.save(
        nib.Nifti1Image(np.random.default_rng(0).random((4, 4, 4), np.float32), np.eye(4)), tmp_path / "pet.nii.gz"
    )
    said = {"ReconFilterType": "Gaussian", "ReconFilterSize": 5, "ReconMethodName": "PSF+TOF", "Units": "Bq/mL"}
    (tmp_path / "pet.json").write_text(json.dumps(said))
    _, meta = PetNiftiReader().get_data(tmp_path / "pet.nii.gz")
    assert json.loads(meta["acquisition"]) == {"filter_mm": 5.0, "models_psf": True}

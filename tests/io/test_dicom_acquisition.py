"""What headers say of how sharp an image can be (PS3.3 C.8.9.1, C.7.6.2, C.8.3.1)."""

import pytest
from pydicom.dataset import Dataset

from medfuse.io.dicom.acquisition import Acquisition, read_acquisition
from medfuse.io.dicom.values import Values


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

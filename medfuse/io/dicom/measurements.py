"""Values of regions as DICOM: the regions as a segmentation, their values as a measurement report (TID 1500).

The sections are those of DICOM PS3.3, templates (TID) and context groups (CID) those of PS3.16.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
from highdicom import sr
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from medfuse.about import NOTICE, __version__
from medfuse.io.dicom.coded import ANATOMY, CATEGORY, INTERPRETED, ROLE, ROLE_CATEGORY, TYPE, datasets, put_codes
from medfuse.io.dicom.derived import (
    MAKER,
    Derivation,
    Grid,
    add_common_references,
    common_elements,
    finished,
    grid_and_frames,
    guarded,
    save,
)
from medfuse.io.dicom.header import MODEL
from medfuse.io.dicom.parametric import frames_at, template, ucum
from medfuse.io.dicom.reference import SourceReference
from medfuse.io.units import find_unit

REGIONS, MEASUREMENTS = "regions", "measurements"
"""Names of both series."""
_SCHEME = "99MEDFUSE"  # what no public code names (8.2)
_SUV = {"bw": codes.DCM.Suvbw, "bsa": codes.DCM.Suvbsa, "ibw": codes.DCM.Suvibw}
_SUV |= {"lbm": codes.DCM.SuvlbmJanma, "lbm-james": codes.DCM.SuvlbmJames128}
_LEVEL = Code("level", _SCHEME, "Level of the image in the region")
_RATIO = Code("SUVR", _SCHEME, "Standardized Uptake Value Ratio to the reference region")
_INVENTED = Code("invented", _SCHEME, "Share of the level that the data do not tell")
_METHODS = {
    "gtm": Code("GTM", _SCHEME, "Geometric transfer matrix, Rousset 1998"),
    "rbv": Code("RBV", _SCHEME, "Region-based voxel-wise correction, Thomas 2011"),
}
_FIGURES = {
    "mean": codes.SCT.Mean, "sd": codes.SCT.StandardDeviation, "max": codes.SCT.Maximum,
    "peak": codes.DCM.PeakValueWithinROI,
}  # fmt: skip
_UTF8 = "ISO_IR 192"  # names of regions may be in any script (PS3.3 C.12.1.1.2)
_ML, _G = Code("ml", "UCUM", "milliliter"), Code("g", "UCUM", "gram")


@dataclass(frozen=True, eq=False)
class Measured:
    """What is known of the regions of an image.

    Attributes:
        title: What the image is, such as PET.
        unit: Of its values.
        suv_kind: By what an SUV is normalised, one of `medfuse.io.units.KINDS`; None for any other unit.
        regions: As the record has them; those without a label are left out.
        restored: UID of the series of the restored image; None where nothing was restored.
        given: UID of that of the image as given; None where it was no DICOM.
        reference_region: Label of the region for SUVR; None without.
    """

    title: str
    unit: str
    suv_kind: str | None
    regions: Sequence[Mapping[str, Any]]
    restored: str | None
    given: str | None
    reference_region: int | None = None


def write_segmentation(
    folder: Path,
    labels: np.ndarray,
    affine: np.ndarray,
    derivation: Derivation,
    *,
    origin: SourceReference,
    measured: Measured,
) -> None:
    """Write labelled regions as a series of binary segmentations, one for each layer of regions that overlap.

    Args:
        folder: Folder of the series.
        labels: **[X, Y, Z]** or **[L, X, Y, Z]**, 0 for none.
        affine: **[4, 4]**, voxel index to RAS mm.
        derivation: Where it comes from.
        origin: Source in whose study it is filed.
        measured: The regions; those of which no voxel is there are left out.

    Raises:
        DicomError: If DICOM cannot hold the grid.

    Reference:
        A.51, C.8.20.
    """
    layers = labels if labels.ndim == 4 else labels[None]
    written: list[Dataset] = []
    with guarded():
        for layer in layers:
            grid, frames = grid_and_frames(np.rint(layer).astype(np.int32), affine)
            own = [region for region in measured.regions if region["label"] in np.unique(frames)]
            if own:
                written.append(_segmentation(grid, frames, own, derivation, origin, measured, len(written) + 1))
        save(folder, written)


def write_report(
    folder: Path,
    regions: Path,
    derivation: Derivation,
    *,
    origin: SourceReference,
    measured: Measured,
) -> None:
    """Write the values of regions as a measurement report: two groups a region, of the image as given and as restored.

    Mean, standard deviation, maximum and peak have the unit as concept (SUVbw, ...) and the figure as derivation, as
    TID 300 has it; the interval of 95 % of a mean is its upper and lower measurement uncertainty (TID 310). Total
    lesion glycolysis is given of SUV by body weight, in g. What no public code names is of the scheme 99MEDFUSE.

    Args:
        folder: Folder of the series.
        regions: Folder that `write_segmentation` wrote.
        derivation: Where it comes from.
        origin: Source in whose study it is filed.
        measured: The values.

    Raises:
        DicomError: If DICOM cannot hold them.

    Reference:
        A.35.3; TID 1500, 1411, 300 and 310.
    """
    with guarded():
        segmentations = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(regions.iterdir())]
        groups = []
        for segmentation in segmentations:
            for segment in segmentation.SegmentSequence:
                region = next(r for r in measured.regions if r["label"] == _label(segment))
                for state, series in (("given", measured.given), ("restored", measured.restored)):
                    if state == "given" or series is not None:
                        place = _reference(segmentation, int(segment.SegmentNumber), origin)
                        groups.append(_group(region, state, series, place, segment, measured))
        device = sr.DeviceObserverIdentifyingAttributes(
            uid=derivation.uid("device"), name=MODEL, manufacturer_name=MAKER, model_name=MODEL
        )
        content = sr.MeasurementReport(
            observation_context=sr.ObservationContext(
                observer_device_context=sr.ObserverContext(
                    observer_type=codes.DCM.Device, observer_identifying_attributes=device
                )
            ),
            procedure_reported=Code("363679005", "SCT", "Imaging procedure"),
            title=codes.DCM.ImagingMeasurementReport,
            imaging_measurements=groups,
        )
        common = common_elements(
            derivation, origin, name=MEASUREMENTS, modality="SR", sop_class=uid.ComprehensiveSRStorage
        )
        for name in ("FrameOfReferenceUID", "PositionReferenceIndicator", "BodyPartExamined", "Laterality"):
            common.pop(name, None)  # a document has none
        report = sr.ComprehensiveSR(
            [*segmentations, *_images(derivation)],
            content=content,
            series_instance_uid=common.SeriesInstanceUID,
            series_number=common.SeriesNumber,
            sop_instance_uid=common.SeriesInstanceUID,
            instance_number=1,
            manufacturer=MAKER,
            is_complete=True,
        )
        report.update(common)
        report.SpecificCharacterSet = _UTF8
        save(folder, [finished(report, derivation.uid(MEASUREMENTS, 1), 1)])


def _segmentation(
    grid: Grid,
    frames: np.ndarray,
    regions: Sequence[Mapping[str, Any]],
    derivation: Derivation,
    origin: SourceReference,
    measured: Measured,
    number: int,
) -> Dataset:
    """Return one layer as a segmentation by highdicom: segments are numbered from 1 (C.8.20.4)."""
    common = common_elements(derivation, origin, name=REGIONS, modality="SEG", sop_class=uid.SegmentationStorage)
    if not common.get("Laterality"):  # segments may say theirs, so that an empty one may not be there (C.7.3.1)
        common.pop("Laterality", None)
    numbers = np.zeros(int(frames.max()) + 1, np.uint16)
    numbers[[region["label"] for region in regions]] = np.arange(1, len(regions) + 1)
    image = highdicom.seg.Segmentation(
        [template(common, grid, frames.shape)],
        numbers[np.maximum(frames, 0)],
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_described(k, r, derivation, measured) for k, r in enumerate(regions, 1)],
        series_instance_uid=common.SeriesInstanceUID,
        series_number=common.SeriesNumber,
        sop_instance_uid=common.SeriesInstanceUID,
        instance_number=number,
        manufacturer=MAKER,
        manufacturer_model_name=MODEL,
        software_versions=__version__,
        device_serial_number="0",
        content_label="REGIONS",
        content_description="regions in which was measured",
        **frames_at(grid),
    )
    image.update(common)
    image.SpecificCharacterSet = _UTF8
    image["PixelData"].VR = "OB"  # bits; pydicom leaves it open, see `finished`
    for item in (*image.DimensionOrganizationSequence, *image.DimensionIndexSequence):
        item.DimensionOrganizationUID = derivation.uid(REGIONS, "dimensions")
    for frame in (*image.SharedFunctionalGroupsSequence, *image.PerFrameFunctionalGroupsSequence):
        frame.pop("DerivationImageSequence", None)
    image.pop("ReferencedSeriesSequence", None)
    add_common_references(image, derivation.sources)
    return finished(image, derivation.uid(REGIONS, number), number)


def _described(
    number: int, region: Mapping[str, Any], derivation: Derivation, measured: Measured
) -> highdicom.seg.SegmentDescription:
    """Return what a segment is: as the segmentation or the structure set that was given says it.

    Labels say no more than a name: then it is a tissue, or the reference region.
    """
    kind = codes.cid7165.ReferenceRegion if region["label"] == measured.reference_region else codes.cid7165.Tissue
    found = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=_name(region)[:64],
        segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
        segmented_property_type=kind,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="as given, resampled to the nearest neighbour",
            family=Code("123109", "DCM", "Manual Processing"),
            version=__version__,
        ),
        tracking_uid=derivation.uid(REGIONS, "label", region["label"]),
        tracking_id=f"{region['label']} {_name(region)}"[:64],
    )
    said = region.get("codes") or {}
    put_codes(found, said)
    if INTERPRETED in said:
        found.SegmentDescription = f"RT ROI Interpreted Type {said[INTERPRETED]}"
    return found


def _label(segment: Dataset) -> int:
    return int(str(segment.TrackingID).split(" ", 1)[0])


def _reference(segmentation: Dataset, segment: int, origin: SourceReference) -> sr.ReferencedSegment:
    return sr.ReferencedSegment(
        segmentation.SOPClassUID,
        segmentation.SOPInstanceUID,
        segment,
        source_series=sr.SourceSeriesForSegmentation(origin.series),
    )


def _group(
    region: Mapping[str, Any], state: str, series: str | None, place: Any, segment: Dataset, measured: Measured
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """Return the measurements of an image in a region (TID 1411)."""
    parameters = [f"image: {measured.title}, {state}", NOTICE]
    parameters += [f"series: {series}"] if series else []
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=segment.TrackingUID, identifier=f"{_name(region)}, {measured.title} {state}"
        ),
        referenced_segment=place,
        algorithm_id=sr.AlgorithmIdentification(MODEL, __version__, parameters=parameters, manufacturer=MAKER),
        measurements=list(_measurements(region, state, measured)),
        **_finding(region),
    )


def _finding(region: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a region is, where, and for what, in the codes of the regions that were given (TID 1411)."""
    said = region.get("codes") or {}
    category, kind, sites, purpose, role = (
        [sr.CodedConcept.from_dataset(item) for item in datasets(said.get(keyword, ()))]
        for keyword in (CATEGORY, TYPE, ANATOMY, ROLE_CATEGORY, ROLE)
    )
    return {
        "finding_category": category[0] if category else None,
        "finding_type": kind[0] if kind else None,
        "finding_sites": [sr.FindingSite(anatomic_location=site) for site in sites] or None,
        "qualitative_evaluations": [sr.QualitativeEvaluation(*both) for both in zip(purpose, role, strict=False)]
        or None,
    }


def _measurements(region: Mapping[str, Any], state: str, measured: Measured) -> Iterator[sr.Measurement]:
    """Give the measurements of an image in a region (TID 300)."""
    concept, unit = _SUV.get(measured.suv_kind or "", _LEVEL), ucum(measured.unit)
    known = find_unit(measured.unit)
    if measured.suv_kind is None and known is not None and known.kind:
        concept = _SUV[known.kind]
    figures = region[state]
    yield sr.Measurement(
        name=codes.SCT.Volume, value=_shortened(region["volume_ml"]), unit=_ML,
        method=codes.DCM.SumOfSegmentedVoxelMethodForVolume,
    )  # fmt: skip
    for figure, derivation in _FIGURES.items():
        if figures.get(figure) is not None:
            properties = None
            if figure == "mean" and state == "restored" and region.get("interval"):
                properties = _interval(region, figures["mean"], unit)
            value = _shortened(figures[figure])
            yield sr.Measurement(name=concept, value=value, unit=unit, derivation=derivation, properties=properties)
    if concept == codes.DCM.Suvbw and figures.get("tlg") is not None:
        yield sr.Measurement(name=codes.DCM.TotalLesionGlycolysis, value=_shortened(figures["tlg"]), unit=_G)
    if figures.get("suvr") is not None:
        yield sr.Measurement(name=_RATIO, value=_shortened(figures["suvr"]), unit=codes.UCUM.Ratio)
    if state == "given":
        for key, method in _METHODS.items():
            if region.get(key) is not None:
                yield sr.Measurement(
                    name=concept, value=_shortened(region[key]), unit=unit, derivation=codes.SCT.Mean, method=method
                )
    elif (region.get("invented") or {}).get("share") is not None:
        share = 100 * region["invented"]["share"]
        yield sr.Measurement(name=_INVENTED, value=_shortened(share), unit=codes.UCUM.Percent)


def _interval(region: Mapping[str, Any], mean: float, unit: Code) -> sr.MeasurementProperties:
    """Return an interval of 95 % as what a mean may be above and below (TID 310), in the unit of the mean."""
    interval = region["interval"]
    found = sr.MeasurementProperties(
        upper_measurement_uncertainty=_shortened(interval["high"] - mean),
        lower_measurement_uncertainty=_shortened(mean - interval["low"]),
    )
    for item in found:  # highdicom has them without a unit
        item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence = [sr.CodedConcept.from_code(unit)]
    return found


def _images(derivation: Derivation) -> list[Dataset]:
    """Return the images of all sources, as evidence (C.17.2)."""
    images = []
    for source in derivation.sources:
        for sop_class, instance in source.instances:
            image = Dataset()
            image.SOPClassUID, image.SOPInstanceUID = sop_class, instance
            image.StudyInstanceUID, image.SeriesInstanceUID = source.study, source.series
            images.append(image)
    return images


def _name(region: Mapping[str, Any]) -> str:
    """Return what a region is called; a backslash would part it in two values (PS3.5 6.2)."""
    return str(region.get("name") or f"label {region['label']}").replace("\\", "/")


def _shortened(value: float) -> float:
    """Return a number that a decimal string of 16 characters holds (PS3.5 6.2, DS); float64 goes beside it."""
    return float(f"{value:.8g}")

"""Malformed DICOM studies, of each family an even share.

Stored values have no checksum, raw or compressed: only what frames them is flipped.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from malformed.corpus import Case, Write, cut, drop, put
from malformed.dicom_compressed import compressed
from malformed.dicom_hostile import hostile
from malformed.dicom_studies import (
    CLASSIC,
    ENHANCED,
    PACKED,
    SLICES,
    both,
    deflated,
    edit,
    flips,
    halve,
    new,
    patched,
    raw,
    scans,
    shift,
    study,
    tags,
    write,
)
from pydicom import uid
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

SHARE = 20  # cases of a family at most


def cases() -> Iterator[Case]:
    """Give an even share of each family."""
    families: dict[str, list[Case]] = {}
    for case in _all():
        families.setdefault(case.family, []).append(case)
    for of in families.values():
        for k in np.linspace(0, len(of) - 1, min(SHARE, len(of))).round().astype(int):
            yield of[k]


def _all() -> Iterator[Case]:
    for fraction in np.linspace(0, 0.999, 12):
        for name in ("mr_3", "pt_0"):
            yield Case("DICOM cut", f"{name} to {fraction:.1%}", CLASSIC, cut(f"{name}.dcm", fraction))
    for fraction in np.linspace(0.05, 0.999, 8):
        yield Case("DICOM cut", f"enhanced to {fraction:.1%}", ENHANCED, cut("mr_0.dcm", fraction))

    common = (
        "SOPClassUID",
        "SOPInstanceUID",
        "Modality",
        "SeriesInstanceUID",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "FrameOfReferenceUID",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "Rows",
        "Columns",
        "PixelSpacing",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "RescaleIntercept",
        "RescaleSlope",
        "PixelData",
    )
    of_pet = ("Units", "CorrectedImage", "DecayCorrection", "PatientWeight", "RadiopharmaceuticalInformationSequence")
    for keyword in common:
        for name, damage in flips("mr_3", keyword, range(8)):
            yield Case("DICOM element bits", name, CLASSIC, damage)
    for keyword in (*of_pet, *common[-4:]):
        for name, damage in flips("pt_3", keyword, range(8)):
            yield Case("DICOM element bits", name, CLASSIC, damage)
    for keyword in (
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "SamplesPerPixel",
    ):
        for name, damage in flips("mr_3", keyword, (8, 9)):
            yield Case("DICOM value bits", name, CLASSIC, damage)

    nan = float("nan")
    e = edit
    geometry: dict[str, Write] = {
        "a slice is missing": drop("mr_3.dcm"),
        "two are missing": both(drop("mr_2.dcm"), drop("mr_3.dcm")),
        "the last of a PET is missing": drop("pt_5.dcm"),
        "the first of a PET is missing": drop("pt_0.dcm"),
        "a copy": lambda f: (f / "copy.dcm").write_bytes((f / "mr_3.dcm").read_bytes()),
        "a copy with a UID of its own": both(
            lambda f: (f / "copy.dcm").write_bytes((f / "mr_3.dcm").read_bytes()),
            tags("copy", SOPInstanceUID="1.2.3.4.5"),
        ),
        "a UID twice": tags("mr_3", SOPInstanceUID="1.2.826.0.1.7.1.1"),
        "a slice 1 mm off along": e("mr_3", shift([])),
        "a slice 1 mm off across": e("mr_3", shift([], 0)),
        "a slice 3 mm off": e("mr_3", shift([], 2, 3.0)),
        "a slice 5 m off": e("mr_5", shift([], 2, 5000.0)),
        "all at one place": tags("mr_*", ImagePositionPatient=[0, 0, 0]),
        "growing steps": lambda f: [e(f"mr_{k}", shift([], 2, 0.3 * k * k))(f) for k in range(SLICES)],
        "tilted": lambda f: [e(f"mr_{k}", shift([], 1, 0.5 * k))(f) for k in range(SLICES)],
        "another orientation in one": tags("mr_3", ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
        "mirrored in one": e(
            "mr_3", lambda d: setattr(d, "ImageOrientationPatient", [-v for v in d.ImageOrientationPatient])
        ),
        "no right angle": tags("mr_*", ImageOrientationPatient=[1, 0, 0, 0.5, 0.866, 0]),
        "no unit vectors": tags("mr_*", ImageOrientationPatient=[2, 0, 0, 0, 2, 0]),
        "orientation 0": tags("mr_*", ImageOrientationPatient=[0] * 6),
        "orientation NaN": tags("mr_*", ImageOrientationPatient=[nan] * 6),
        "five numbers": tags("mr_*", ImageOrientationPatient=[1, 0, 0, 0, 1]),
        "position NaN": tags("mr_3", ImagePositionPatient=[nan, 0, 0]),
        "position inf": tags("mr_3", ImagePositionPatient=[float("inf"), 0, 0]),
        "position 1e300": tags("mr_3", ImagePositionPatient=[1e300, 0, 0]),
        "position of text": tags("mr_3", ImagePositionPatient=b"a\\b\\c"),
        "spacing 0": tags("mr_*", PixelSpacing=[0, 1]),
        "spacing negative": tags("mr_*", PixelSpacing=[-1, -1]),
        "spacing NaN": tags("mr_*", PixelSpacing=[nan, 1]),
        "spacing 10 m": tags("mr_*", PixelSpacing=[1e4, 1e4]),
        "spacing 1e-9": tags("mr_*", PixelSpacing=[1e-9, 1e-9]),
        "another spacing in one": tags("mr_3", PixelSpacing=[2, 2]),
        "one number as spacing": tags("mr_*", PixelSpacing=[2]),
        "one slice alone": lambda f: [p.unlink() for p in f.glob("mr_*") if p.name != "mr_0.dcm"],
    }
    for name, damage in geometry.items():
        yield Case("DICOM geometry", name, CLASSIC, damage)

    mixed: dict[str, Write] = {
        "two MRI": lambda f: write(f, other=study()[0].change(series="1.2.9").slices()),
        "two PET": lambda f: write(f, other=study()[1].change(series="1.2.9").slices()),
        "two MRI of one UID": lambda f: write(f, other=[new(d, k) for k, d in enumerate(study()[0].slices())]),
        "another UID for one": tags("mr_3", SeriesInstanceUID="1.2.9"),
        "PET in the MRI": tags("mr_3", Modality="PT"),
        "one UID for both": tags("*", SeriesInstanceUID="1.2.9"),
        "no PET": lambda f: [p.unlink() for p in f.glob("pt_*")],
        "no MRI": lambda f: [p.unlink() for p in f.glob("mr_*")],
        "another world in one": tags("mr_3", FrameOfReferenceUID="1.2.9"),
        "another size in one": e("mr_3", halve),
        "two patients": tags("pt_*", PatientID="MRN-4712"),
        "CT for MR": tags("mr_*", Modality="CT"),
        "localizer": tags("mr_*", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        "secondary capture": tags("mr_*", SOPClassUID=uid.SecondaryCaptureImageStorage),
        "an empty folder": lambda f: [p.unlink() for p in f.iterdir()],
        "PET units differ": tags("pt_3", Units="CNTS"),
        "PET doses differ": tags("pt_3", RadionuclideTotalDose=3e8),
        "PET weights differ": tags("pt_3", PatientWeight=71),
        "signed in one": tags("pt_3", PixelRepresentation=0),
        "no SUV without attenuation correction": tags("pt_*", CorrectedImage=["DECY"]),
    }
    for name, damage in mixed.items():
        yield Case("DICOM mixed series", name, CLASSIC, damage)

    one: dict[str, Write] = {
        "another patient in one": tags("pt_3", PatientID="MRN-4712"),
        "another patient at an end": tags("mr_0", PatientID="MRN-4712"),
        "no patient in one": tags("mr_3", PatientID=None),
        "another study in one": tags("pt_3", StudyInstanceUID="1.2.9"),
        "two patients by issuer": both(tags("pt_*", IssuerOfPatientID="A"), tags("mr_*", IssuerOfPatientID="B")),
        "two patients by name": both(tags("pt_*", PatientID=None, PatientName="B"), tags("mr_*", PatientID=None)),
        "two echo times": both(tags("mr_[024]", EchoTime=10), tags("mr_[135]", EchoTime=90)),
        "magnitude and phase": both(
            tags("mr_[024]", ImageType=["ORIGINAL", "PRIMARY", "M"]),
            tags("mr_[135]", ImageType=["ORIGINAL", "PRIMARY", "P"]),
        ),
        "a slice more than named": tags("pt_*", NumberOfSlices=SLICES - 1),
        "an end that two headers name": both(tags("mr_*", ImagesInAcquisition=SLICES), drop("mr_5.dcm")),
        "a first slice that its numbers miss": drop("mr_0.dcm"),
        "an end of another acquisition": tags("mr_5", InstanceNumber=57),
        "another sex in one": tags("pt_3", PatientSex="F"),
        "no preamble": raw("pt_3", lambda content: content[132:]),
        "SPECT for PET": tags("pt_*", SOPClassUID=uid.NuclearMedicineImageStorage, Modality="NM"),
    }
    for name, damage in one.items():
        yield Case("DICOM one of all", name, CLASSIC, damage)

    mandatory = [*common, "SOPInstanceUID"]
    for keyword in dict.fromkeys(mandatory):
        for name in ("mr_3", "mr_*"):
            if keyword == "RescaleSlope" and name == "mr_*":
                continue  # MR images may do without, and mean 1
            if keyword in ("RescaleIntercept", "HighBit") or keyword == "FrameOfReferenceUID":
                name = "pt_*" if name == "mr_*" else "pt_3"
            yield Case("DICOM tags missing", f"{keyword} ({name})", CLASSIC, tags(name, **{keyword: None}))
            if keyword != "PixelData":
                yield Case("DICOM tags missing", f"{keyword} empty ({name})", CLASSIC, tags(name, **{keyword: ...}))

    suv: dict[str, dict[str, Any]] = {
        "weight absent": {"PatientWeight": None},
        "weight 0": {"PatientWeight": 0},
        "weight 7000": {"PatientWeight": 7000},
        "weight NaN": {"PatientWeight": nan},
        "weight negative": {"PatientWeight": -70},
        "weight text": {"PatientWeight": b"heavy"},
        "dose absent": {"RadionuclideTotalDose": None},
        "dose in MBq": {"RadionuclideTotalDose": 370},
        "dose 0": {"RadionuclideTotalDose": 0},
        "dose negative": {"RadionuclideTotalDose": -3.7e8},
        "dose 1e30": {"RadionuclideTotalDose": 1e30},
        "half life absent": {"RadionuclideHalfLife": None},
        "half life 0": {"RadionuclideHalfLife": 0},
        "half life in ns": {"RadionuclideHalfLife": 6.6e12},
        "no injection time": {"RadiopharmaceuticalStartTime": None},
        "injection time 25:61": {"RadiopharmaceuticalStartTime": "256100"},
        "injection after the scan": {"RadiopharmaceuticalStartTime": "114500"},
        "injection time text": {"RadiopharmaceuticalStartTime": b"noon"},
        "no time of the scan": {"SeriesTime": None, "AcquisitionTime": None},
        "no units": {"Units": None},
        "units PROPCNTS": {"Units": "PROPCNTS"},
        "counts": {"Units": "CNTS"},
        "GML by LBM": {"Units": "GML", "SUVType": "LBM"},
        "GML by FOO": {"Units": "GML", "SUVType": "FOO"},
        "decay NONE": {"DecayCorrection": "NONE"},
        "decay absent": {"DecayCorrection": None},
        "no corrections": {"CorrectedImage": None},
        "no decay correction": {"CorrectedImage": ["ATTN"]},
        "no agent": {"RadiopharmaceuticalInformationSequence": None},
    }
    for name, values in suv.items():
        if name == "no agent":
            damage = e("pt_*", lambda d: d.__delitem__("RadiopharmaceuticalInformationSequence"))
        else:
            damage = tags("pt_*", **values)
        yield Case("DICOM SUV", name, CLASSIC, damage)
    contradictions: dict[str, dict[str, Any]] = {
        "dose in kBq": {"RadionuclideTotalDose": 3.7e5},
        "weight 7": {"PatientWeight": 7},
        "half life in minutes": {"RadionuclideHalfLife": 109.77},
        "half life of no nuclide": {"RadionuclideHalfLife": 9000},
        "another start by date-time": {"RadiopharmaceuticalStartDateTime": "20240229093000"},
        "start in UTC, time of day of no zone": {"RadiopharmaceuticalStartDateTime": "20240229093700+0000"},
        "start in no zone": {"RadiopharmaceuticalStartDateTime": "20240229103000+9900"},
        "series without date made later": {"SeriesDate": ..., "SeriesTime": "150000"},
        "frame half an hour later": {"FrameReferenceTime": 1890000, "ActualFrameDuration": 180000},
        "decay factor of an hour": {"DecayFactor": 1.46},
        "FDG with the half life of C-11": {"Radiopharmaceutical": "FDG", "RadionuclideHalfLife": 1221.6},
        "series of the day before": {"SeriesDate": "20240228"},
        "series half an hour before its frame": {"SeriesTime": "110000"},
        "Bq/ml called g/ml": {"Units": "GML"},
        "an intercept": {"RescaleIntercept": 200},
        "53 MBq/kg": {"RadionuclideTotalDose": 3.7e9},
        "weight in pounds": {"PatientWeight": 154.3},
    }
    for name, values in contradictions.items():
        yield Case("DICOM contradictions", name, CLASSIC, tags("pt_*", **values))
    two = e(
        "pt_*", lambda d: d.RadiopharmaceuticalInformationSequence.append(d.RadiopharmaceuticalInformationSequence[0])
    )
    yield Case("DICOM SUV", "two agents", CLASSIC, two)
    sidecars = {
        "no JSON": "{",
        "a list": "[]",
        "another name": '{"PatientName": "x"}',
        "a boolean": '{"PatientWeight": true}',
        "NaN": '{"PatientWeight": NaN}',
        "text": '{"PatientWeight": "70"}',
        "binary": b"\xff\xfe\0",
        "a list as weight": '{"PatientWeight": [70]}',
        "absurd": '{"PatientWeight": 1e9}',
        "too large": json.dumps({"Units": "x" * 100_000}),
        "deep": "[" * 30_000 + "]" * 30_000,
        "twice": '{"PatientWeight": 70, "PatientWeight": 90}',
    }
    for name, text in sidecars.items():
        yield Case("DICOM SUV", f"suv.json: {name}", CLASSIC, put("suv.json", text))

    numbers: dict[str, dict[str, Any]] = {
        "slope 0": {"RescaleSlope": 0},
        "slope negative": {"RescaleSlope": -1.5},
        "slope NaN": {"RescaleSlope": nan},
        "slope inf": {"RescaleSlope": float("inf")},
        "slope 1e300": {"RescaleSlope": 1e300},
        "slope text": {"RescaleSlope": b"steep"},
        "two slopes": {"RescaleSlope": [1, 2]},
        "intercept NaN": {"RescaleIntercept": nan},
        "intercept 1e300": {"RescaleIntercept": 1e300},
        "intercept text": {"RescaleIntercept": b"x"},
        "rows 0": {"Rows": 0},
        "rows text": {"Rows": b"many"},
        "rows halved": {"Rows": 18},
        "columns halved": {"Columns": 16},
        "rows 60000": {"Rows": 60000, "Columns": 60000},
        "rows + 1": {"Rows": 37},
        "columns + 1": {"Columns": 33},
        "bits 12 of 16": {"BitsAllocated": 12, "BitsStored": 12, "HighBit": 11},
        "bits 8": {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7},
        "bits 64": {"BitsAllocated": 64, "BitsStored": 64, "HighBit": 63},
        "8 bits stored": {"BitsStored": 8, "HighBit": 7},
        "17 of 16 bits": {"BitsStored": 17, "HighBit": 16},
        "high bit 3": {"HighBit": 3},
        "representation 2": {"PixelRepresentation": 2},
        "3 samples": {"SamplesPerPixel": 3},
        "MONOCHROME1": {"PhotometricInterpretation": "MONOCHROME1"},
        "palette": {"PhotometricInterpretation": "PALETTE COLOR"},
        "frames -1": {"NumberOfFrames": -1},
        "frames 2^31": {"NumberOfFrames": 2**31},
        "frames 2": {"NumberOfFrames": 2},
    }
    for name, values in numbers.items():
        for files in ("mr_*", "pt_3"):
            if files == "mr_*" or not name.startswith(("rows", "columns", "frames")):
                yield Case("DICOM numbers", f"{name} ({files})", CLASSIC, tags(files, **values))

    def element(name: str, vr: str, change: Callable[[bytes], bytes]) -> Write:
        def damage(d: Dataset) -> None:
            value = change(d.PixelData)
            del d.PixelData
            d[Tag(name)] = DataElement(Tag(name), vr, value)

        return e("mr_*", damage)

    pixels: dict[str, Write] = {
        "one byte short": element("PixelData", "OW", lambda p: p[:-2]),
        "half": element("PixelData", "OW", lambda p: p[: len(p) // 2]),
        "twice as long": element("PixelData", "OW", lambda p: p * 2),
        "a row too many": element("PixelData", "OW", lambda p: p + bytes(64)),
        "empty": element("PixelData", "OW", lambda p: b""),
        "as text": element("PixelData", "UT", lambda p: "x" * len(p)),
        "as unknown": raw("mr_*", lambda c: patched(c, "PixelData", 4, b"UN")),
        "as float": element("FloatPixelData", "OF", lambda p: p * 2),
        "a modality table": e("mr_*", lambda d: setattr(d, "ModalityLUTSequence", [scans.item(ModalityLUTType="US")])),
        "a length of 4 GiB": raw("mr_3", lambda c: patched(c, "PixelData", 8, b"\xf0\xff\xff\xff")),
        "a length of 0": raw("mr_3", lambda c: patched(c, "PixelData", 8, bytes(4))),
        "an undefined length": raw("mr_3", lambda c: patched(c, "PixelData", 8, b"\xff" * 4)),
        "high bits set": e(
            "mr_3", lambda d: d.update({"BitsStored": 12, "HighBit": 11, "PixelData": b"\xff\x7f" * (36 * 32)})
        ),
    }
    for name, damage in pixels.items():
        yield Case("DICOM pixels", name, CLASSIC, damage)

    explicit = b"\x02\0\x10\0UI\x14\0" + uid.ExplicitVRLittleEndian.encode() + b"\0"
    syntaxes = {u: uid.UID(u).name for u in uid.UID_dictionary if uid.UID_dictionary[u][1] == "Transfer Syntax"}
    syntaxes |= {"1.2.3": "an unknown one", "1.2.840.113619.5.2": "that of GE", "": "an empty one", "x" * 20: "no UID"}
    for syntax, name in syntaxes.items():
        if syntax != uid.ExplicitVRLittleEndian:
            value = syntax.encode() + b"\0" * (len(syntax) % 2)
            meta = b"\x02\0\x10\0UI" + struct.pack("<H", len(value)) + value
            yield Case("DICOM transfer syntax", name, CLASSIC, raw("mr_*", lambda c, m=meta: c.replace(explicit, m)))
    for name, change in {
        "none": lambda c: c.replace(explicit, b""),
        "two": lambda c: c.replace(explicit, explicit * 2),
        "no preamble": lambda c: c[132:],
        "no DICM": lambda c: c[:128] + b"MCID" + c[132:],
        "preamble twice": lambda c: c[:132] + c,
        "a JPEG in front": lambda c: b"\xff\xd8\xff\xe0" + c,
        "no data set": lambda c: c[: c.index(explicit) + len(explicit)],
        "deflated": lambda c: deflated(c, explicit),
        "deflated and cut": lambda c: deflated(c, explicit)[:-100],
    }.items():
        yield Case("DICOM transfer syntax", name, CLASSIC, raw("mr_*", change))

    for kind, way in PACKED.items():
        yield from compressed(kind, way)
    yield from hostile()

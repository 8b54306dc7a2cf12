"""Malformed texts: manifests, BIDS datasets, case folders, specifications of a degradation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
from malformed import images, nifti
from malformed.corpus import Case, Way, Write, drop, put

_BATCH = ("OUT", "participant", "--steps", "1", "--device", "cpu")
_HEADER = "case\tmri\tpet\taligned\tpet_unit"
_ROW = "one\tmri.nii\tpet.nii\ttrue\tSUV"


def _volumes(folder: Path, mri: str, pet: str) -> None:
    for seed, name in enumerate((mri, pet)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nifti.image(seed), folder / name)


def _manifest(folder: Path) -> None:
    _volumes(folder, "mri.nii", "pet.nii")
    (folder / "m.tsv").write_text(f"{_HEADER}\n{_ROW}\n")


def _bids(folder: Path) -> None:
    _volumes(folder, "sub-1/anat/sub-1_T1w.nii.gz", "sub-1/pet/sub-1_pet.nii.gz")
    (folder / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')
    (folder / "sub-1/pet/sub-1_pet.json").write_text('{"Units": "Bq/mL"}')


def _folders(folder: Path) -> None:
    _volumes(folder, "one/mri.nii", "one/pet.nii")
    (folder / "one" / "case.json").write_text('{"aligned": true, "pet_unit": "SUV"}')


_SPEC = "version: 1\nsource1:\n  - noise: {kind: gaussian, sigma: 0.03}\nsource2:\n  - blur: {sigma_px: 1.0}\n"


def _specified(folder: Path) -> None:
    images.PNG.sound(folder)
    (folder / "spec.yaml").write_text(_SPEC)


MANIFEST = Way(_manifest, (("batch", "IN/m.tsv", *_BATCH),))
BIDS = Way(_bids, (("batch", "IN", *_BATCH),))
FOLDERS = Way(_folders, (("batch", "IN", *_BATCH),))
SPEC = Way(_specified, ((*images.PNG.commands[0], "--degradation", "IN/spec.yaml"),))
DEEP = "[" * 100_000 + "]" * 100_000


def cases() -> Iterator[Case]:
    """Give all cases."""
    row = _ROW.split("\t")

    def cell(column: int, text: str) -> str:
        return f"{_HEADER}\n" + "\t".join([*row[:column], text, *row[column + 1 :]]) + "\n"

    manifests: dict[str, str | bytes] = {
        "empty": "",
        "a header alone": _HEADER,
        "no header": _ROW,
        "a column unknown": _HEADER + "\tname\n" + _ROW + "\tx",
        "a column twice": _HEADER + "\tcase\n" + _ROW + "\tone",
        "no pet": "case\tmri\none\tmri.nii",
        "commas": f"{_HEADER}\n{_ROW}\n".replace("\t", ","),
        "a cell too many": f"{_HEADER}\n{_ROW}\tx",
        "a cell too few": f"{_HEADER}\none\tmri.nii",
        "a case twice": f"{_HEADER}\n{_ROW}\n{_ROW}",
        "cases by capitals": f"{_HEADER}\n{_ROW}\nOne" + _ROW[3:],
        "an open quote": f'{_HEADER}\n"{_ROW}',
        "UTF-16": f"{_HEADER}\n{_ROW}".encode("utf-16"),
        "Latin-1": f"{_HEADER}\n{_ROW}".replace("one", "é").encode("latin-1"),
        "NUL": f"{_HEADER}\n{_ROW}\0",
        "binary": bytes(range(256)),
        "a cell of 1 MB": cell(1, "x" * 10**6),
        "a byte order mark": b"\xef\xbb\xbf" + f"{_HEADER}\n{_ROW}".encode(),
        "CRLF": f"{_HEADER}\r\n{_ROW}\r\n",
        "id empty": cell(0, ""),
        "id a path": cell(0, "../one"),
        "id dots": cell(0, ".."),
        "id absolute": cell(0, "/tmp/x"),
        "id hidden": cell(0, ".x"),
        "id of 5000 letters": cell(0, "x" * 5000),
        "id of 250 letters": cell(0, "x" * 250),
        "id with NUL": cell(0, "a\0b"),
        "id of a file of the run": cell(0, "index.html"),
        "id of a folder of the run": cell(0, "Dicom"),
        "id of a device of Windows": cell(0, "COM1.a"),
        "id with a dot at its end": cell(0, "one."),
        "id an expression": cell(0, "$x"),
        "an expression": cell(1, "$x"),
        "a column misspelt": _HEADER.replace("aligned", "aligend") + "\n" + _ROW,
        "a column of the program": f"{_HEADER}\tmask_sha256\n{_ROW}\t0",
        "id with a space": cell(0, "a b"),
        "id a device": cell(0, "a\x1b[2J"),
        "mri absent": cell(1, "none.nii"),
        "mri empty": cell(1, ""),
        "mri a folder of nothing": cell(1, "."),
        "mri a device": cell(1, "/dev/zero"),
        "mri another file": cell(1, "/etc/passwd"),
        "mri with NUL": cell(1, "mri\0.nii"),
        "mri of 5000 letters": cell(1, "x" * 5000 + ".nii"),
        "mri up and up": cell(1, "../" * 40 + "etc/passwd"),
        "mri the table": cell(1, "m.tsv"),
        "pet the table": cell(2, "m.tsv"),
        "aligned perhaps": cell(3, "perhaps"),
        "aligned 2": cell(3, "2"),
        "a unit of markup": cell(4, "<b>"),
        "a unit too long": cell(4, "x" * 99),
        "a unit of words": cell(4, "SUV of Mrs X"),
        "a series for NIfTI": f"{_HEADER}\tpet_series\n{_ROW}\t1.2/3",
        "a mask absent": f"{_HEADER}\tmask\n{_ROW}\tnone.nii",
        "a mask of text": f"{_HEADER}\tmask\n{_ROW}\tm.tsv",
        "#": cell(1, "a#b.nii"),
    }
    for name, text in manifests.items():
        yield Case("manifest", name, MANIFEST, put("m.tsv", text))

    sidecar = "sub-1/pet/sub-1_pet.json"
    datasets: dict[str, Write] = {
        "sidecar no JSON": put(sidecar, "{"),
        "sidecar a list": put(sidecar, "[1]"),
        "sidecar deep": put(sidecar, DEEP),
        "sidecar binary": put(sidecar, b"\xff\xfe\0"),
        "sidecar of 2 MiB": put(sidecar, json.dumps({"a": "x" * (2 << 20)})),
        "unit a list": put(sidecar, '{"Units": ["SUV"]}'),
        "unit words": put(sidecar, '{"Units": "SUV of Mrs X"}'),
        "unit a number": put(sidecar, '{"Units": 3}'),
        "sidecar of many digits": put(sidecar, '{"Units": ' + "1" * 5000 + "}"),
        "no PET": drop("sub-1/pet"),
        "no MRI": drop("sub-1/anat"),
        "PET empty": put("sub-1/pet/sub-1_pet.nii.gz", b""),
        "no subject": drop("sub-1"),
        "two PET": put("sub-1/pet/sub-1_trc-x_pet.nii.gz", b""),
        "two MRI": put("sub-1/anat/sub-1_run-2_T1w.nii.gz", b""),
        "a link to itself": lambda f: (f / "sub-2").symlink_to(f),
        "a link in a circle": lambda f: (f / "sub-1/ses-1").symlink_to("../sub-1"),
        "a subject without": lambda f: (f / "sub-2").mkdir(),
        "a subject hostile": lambda f: (f / "sub-1").rename(f / "sub-$(x)"),
        "a sidecar a folder": lambda f: (drop(sidecar)(f), (f / sidecar).mkdir()),
    }
    for name, damage in datasets.items():
        yield Case("BIDS", name, BIDS, damage)

    fields = {
        "no JSON": "{",
        "a list": "[]",
        "deep": DEEP,
        "NaN": '{"aligned": NaN}',
        "aligned yes": '{"aligned": "yes"}',
        "a path": '{"mri": "/etc/passwd"}',
        "case": '{"case": "../x"}',
        "a truth": '{"truth_pet": "x"}',
        "a list as unit": '{"pet_unit": ["SUV"]}',
        "null": '{"aligned": null}',
        "a unit of markup": '{"aligned": true, "pet_unit": "<script>alert(1)</script>"}',
        "a unit of 1000": '{"aligned": true, "pet_unit": "' + "x" * 1000 + '"}',
        "a unit that is a number": '{"aligned": true, "pet_unit": 5}',
        "a unit no ASCII": '{"aligned": true, "pet_unit": "µ\\u0000"}',
        "hashes": '{"aligned": true, "pet_unit": "SUV", "pet_sha256": "0"}',
        "binary": b"\xff\xfe",
        "digits": '{"a": ' + "1" * 5000 + "}",
        "private": '{"aligned": true, "pet_unit": "SUV", "mri_files": "/etc/passwd"}',
        "scale": '{"aligned": true, "pet_unit": "SUV", "pet_scale": 3}',
        "twice": '{"aligned": true, "pet_unit": "SUV", "pet_unit": "Bq/ml"}',
        "misspelt": '{"aligend": true, "pet_unit": "SUV"}',
        "a share": '{"aligned": true, "pet_unit": "SUV", "blur_share": 1}',
        "a target": '{"aligned": true, "pet_unit": "SUV", "_target_": "x"}',
        "a marked field": '{"$aligned": true, "pet_unit": "SUV"}',
        "a field in capitals": '{"Aligned": true, "pet_unit": "SUV"}',
        "an expression": '{"aligned": true, "pet_unit": "$x"}',
    }
    for name, text in fields.items():
        yield Case("case folders", f"case.json: {name}", FOLDERS, put("one/case.json", text))
    others: dict[str, Write] = {
        "no PET": drop("one/pet.nii"),
        "PET twice": put("one/pet.nii.gz", b""),
        "PET twice by synonym": put("one/suv.nii", b""),
        "MRI empty": put("one/mri.nii", b""),
        "a name with a space": lambda f: (f / "one").rename(f / "o n e"),
        "a name hostile": lambda f: (f / "one").rename(f / "$(x);rm"),
        "a mask empty": put("one/mask.nii", b""),
        "a mask of text": put("one/mask.nii", "x" * 999),
        "a truth cut": put("one/truth_pet.nii", bytes(400)),
        "a folder of nothing": lambda f: (drop("one")(f), (f / "one").mkdir()),
        "twins": lambda f: _volumes(f, "ONE/mri.nii", "ONE/pet.nii"),
        "a name of 250": lambda f: (f / "one").rename(f / ("x" * 250)),
        "a name of the run": lambda f: (f / "one").rename(f / "cases"),
        "a name with a dot at its end": lambda f: (f / "one").rename(f / "one."),
    }
    for name, damage in others.items():
        yield Case("case folders", name, FOLDERS, damage)

    def noise(text: str) -> str:
        return _SPEC.replace("{kind: gaussian, sigma: 0.03}", text)

    def blur(text: str) -> str:
        return _SPEC.replace("blur: {sigma_px: 1.0}", text)

    laugh = "a0: &a0 [x, x]\n" + "".join(f"a{k + 1}: &a{k + 1} [{', '.join([f'*a{k}'] * 10)}]\n" for k in range(9))
    specs: dict[str, str | bytes] = {
        "empty": "",
        "text": "noise",
        "a list": "- noise",
        "a number": "3",
        "binary": bytes(range(256)),
        "UTF-16": _SPEC.encode("utf-16"),
        "tabs": "a:\n\tb: 1",
        "cut": _SPEC[: len(_SPEC) // 2],
        "cut in a brace": _SPEC[:40],
        "no version": _SPEC.split("\n", 1)[1],
        "version 2": _SPEC.replace("1", "2", 1),
        "version text": _SPEC.replace("1", "'1'", 1),
        "version true": _SPEC.replace("1", "true", 1),
        "version 1.0": _SPEC.replace("1", "1.0", 1),
        "another source": _SPEC + "source3: []\n",
        "a source twice": _SPEC + "source1: []\n",
        "a key twice": noise("{kind: gaussian, sigma: 0.03, sigma: 0.3}"),
        "a source a mapping": _SPEC.replace("  - noise", "    noise"),
        "a source text": "version: 1\nsource1: noise\n",
        "a step text": blur("blur"),
        "two in a step": blur("blur: {sigma_px: 1.0}\n    noise: {sigma: 0.1}"),
        "a step unknown": blur("sharpen: {}"),
        "a step of a call": blur("__import__: {}"),
        "values a list": blur("blur: [1]"),
        "values none": blur("blur:"),
        "sigma absent": noise("{kind: gaussian}"),
        "sigma negative": noise("{sigma: -0.1}"),
        "sigma NaN": noise("{sigma: .nan}"),
        "sigma inf": noise("{sigma: .inf}"),
        "sigma text": noise("{sigma: much}"),
        "sigma 1e300": noise("{sigma: 1.0e+300}"),
        "sigma a list": noise("{sigma: [0.1]}"),
        "sigma true": noise("{sigma: true}"),
        "kind unknown": noise("{kind: pink, sigma: 0.1}"),
        "kind a list": noise("{kind: [a], sigma: 0.1}"),
        "counts 0": noise("{kind: poisson, counts: 0}"),
        "counts -5": noise("{kind: poisson, counts: -5}"),
        "counts NaN": noise("{kind: poisson, counts: .nan}"),
        "unit K": noise("{sigma: 1, unit: K}"),
        "unit of the input": noise("{sigma: 1, unit: input}"),
        "blur negative": blur("blur: {sigma_px: -1}"),
        "blur NaN": blur("blur: {sigma_px: .nan}"),
        "blur 1e9": blur("blur: {sigma_px: 1.0e+9}"),
        "blur inf": blur("blur: {sigma_px: .inf}"),
        "blur of 3 axes": blur("blur: {sigma_px: [1, 1, 1]}"),
        "blur in mm": blur("blur: {fwhm_mm: 3}"),
        "blur in both": blur("blur: {fwhm_mm: 3, sigma_px: 1}"),
        "blur of text": blur("blur: {sigma_px: [a, b]}"),
        "blur of nothing": blur("blur: {sigma_px: []}"),
        "motion 1e9": blur("motion: {length_px: 1.0e+9}"),
        "motion NaN": blur("motion: {length_px: .nan}"),
        "motion -3": blur("motion: {length_px: -3}"),
        "motion by NaN": blur("motion: {length_px: 3, angle_deg: .nan}"),
        "motion by 1e300": blur("motion: {length_px: 3, angle_deg: 1.0e+300}"),
        "factor 0": blur("downsample: {factor: 0}"),
        "factor -2": blur("downsample: {factor: -2}"),
        "factor 1.5": blur("downsample: {factor: 1.5}"),
        "factor 10^9": blur("downsample: {factor: 1000000000}"),
        "factor true": blur("downsample: {factor: true}"),
        "factor of 3 axes": blur("downsample: {factor: [2, 2, 2]}"),
        "factor of text": blur("downsample: {factor: two}"),
        "factor kind": blur("downsample: {factor: 2, kind: best}"),
        "itself": "&a\nversion: 1\nsource1: *a\n",
        "itself in a list": "version: 1\nsource1: &a [*a]\n",
        "an alias of nothing": "version: 1\nsource1: *b\n",
        "laughs": laugh + "version: 1\nsource1: *a9\n",
        "laughs in a value": blur(f"blur: {{sigma_px: [&a [1, 1]{', *a' * 999}]}}"),
        "merges": "".join(f"a{k + 1}: &a{k + 1} {{<<: [{', '.join([f'*a{k}'] * 10)}]}}\n" for k in range(9)).replace(
            "*a0", "{x: 1}"
        ),
        "a name an expression": _SPEC + "name: $x\n",
        "a name a target": _SPEC + "name: {_target_: x}\n",
        "a target": _SPEC + "_target_: x\n",
        "a step a target": blur("_target_: x"),
        "a macro": "'%steps'",
        "a value an expression": blur("blur: {sigma_px: $x}"),
        "a value a reference": blur("blur: {sigma_px: '@steps'}"),
        "a misspelt source": _SPEC.replace("source2", "sourec2"),
        "a mode": blur("blur: {sigma_px: 1.0, _mode_: debug}"),
        "a name of 2000": _SPEC + "name: " + "x" * 2000 + "\n",
        "laughs alone": "version: 1\nsource1:\n  - noise: *a\n",
        "a call": "!!python/object/apply:os.system ['touch x']",
        "a tag": "!evil {version: 1}",
        "a name": "version: !!python/name:os.system\n",
        "deep": DEEP,
        "deep mappings": "{a: " * 5000 + "1" + "}" * 5000,
        "two documents": _SPEC + "---\n" + _SPEC,
        "a date": "version: 2020-01-01\n",
        "a date no date": "version: 2020-13-41\n",
        "a large number": "version: " + "9" * 5000,
        "a key a list": "? [1, 2]\n: 3\n",
        "a key a mapping": "? {a: 1}\n: 3\n",
        "degradation: null": "degradation:\n",
        "degradation: 5": "degradation: 5\n",
        "degradation twice": "degradation:\n  degradation:\n    version: 1\n",
    }
    for name, text in specs.items():
        yield Case("specification", name, SPEC, put("spec.yaml", text))
    yield Case("specification", "a folder", SPEC, lambda f: (drop("spec.yaml")(f), (f / "spec.yaml").mkdir()))
    yield Case("specification", "absent", SPEC, drop("spec.yaml"))

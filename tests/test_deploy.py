"""MONAI Deploy and MONAI Label, between stand-ins: their packages are large and not installed here."""

import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nibabel as nib
import pytest
from doc_places import write_study
from test_bundle import write_case

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "how-to" / "deploy.md").read_text(encoding="utf-8")
EXAMPLES = [textwrap.dedent(text) for text in re.findall(r"(?:^    .*\n|^\n(?=    ))+", PAGE, flags=re.MULTILINE)]


class Operator:
    def __init__(self, fragment, *args, **kwargs):
        self.conditions, self.told = args, kwargs


class Application:
    """Composes, and runs each operator once, as the SDK does with `CountCondition(self, 1)`."""

    argv = ("app", "-i", "IN", "-o", "OUT")

    @staticmethod
    def init_app_context(argv):
        return SimpleNamespace(input_path=Path(argv[2]), output_path=Path(argv[4]))

    def add_operator(self, operator):
        self.operator = operator

    def run(self):
        self.compose()
        sent = {}
        ports = SimpleNamespace(output=lambda name: SimpleNamespace(condition=lambda kind: sent.setdefault(name)))
        self.operator.setup(ports)
        self.operator.compute(None, SimpleNamespace(emit=lambda value, name: sent.update({name: value})), None)
        self.sent = sent


@pytest.fixture
def stand_ins(monkeypatch):
    names = {
        "monai.deploy": {},
        "monai.deploy.core": {
            "Application": Application, "Operator": Operator, "OperatorSpec": object,
            "ConditionType": SimpleNamespace(NONE="none"),
        },
        "holoscan": {},
        "holoscan.conditions": {"CountCondition": lambda fragment, count: count},
        "monailabel": {},
        "monailabel.interfaces": {},
        "monailabel.interfaces.tasks": {},
        "monailabel.interfaces.tasks.infer_v2": {
            "InferType": SimpleNamespace(OTHERS="others"),
            "InferTask": type("InferTask", (), {"__init__": lambda self, type, **told: vars(self).update(told)}),
        },
    }  # fmt: skip
    for name, content in names.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "medfuse.deploy", raising=False)
    yield
    sys.modules.pop("medfuse.deploy", None)


def test_the_application_makes_dicom_of_a_study(stand_ins, tmp_path, monkeypatch, capsys):
    from medfuse import deploy

    write_study(tmp_path / "STUDY")
    monkeypatch.setattr(Application, "argv", ("app", "-i", str(tmp_path / "STUDY"), "-o", str(tmp_path / "OUT")))
    assert deploy.main() == 0
    assert "Research use only" in capsys.readouterr().out
    for kind in ("pet_restored", "fused", "fused_rgb"):
        assert list((tmp_path / "OUT" / "study" / "dicom" / kind).glob("*.dcm"))


def test_what_cannot_be_fused_ends_the_application(stand_ins, tmp_path, monkeypatch, capsys):
    from medfuse import deploy

    write_study(tmp_path / "STUDY")
    for path in (tmp_path / "STUDY" / "PET").iterdir():
        path.unlink()
    monkeypatch.setattr(Application, "argv", ("app", "-i", str(tmp_path / "STUDY"), "-o", str(tmp_path / "OUT")))
    assert deploy.main() == 2
    assert "must hold one PT series, got 0" in capsys.readouterr().err.strip().splitlines()[-1]


def test_the_examples_of_the_page_work(stand_ins, tmp_path):
    application, slicer, label = EXAMPLES
    names: dict = {}
    exec(compile(application, "application", "exec"), names)
    app = names["App"]()
    app.compose()
    assert (app.operator.conditions, app.operator.input_folder) == ((1,), "STUDY")
    loaded: list[str] = []
    exec(compile(slicer, "slicer", "exec"), {"slicer": SimpleNamespace(util=SimpleNamespace(loadVolume=loaded.append))})
    assert loaded == [f"out/case/case_{kind}.nii.gz" for kind in ("mri_restored", "pet_restored", "fused")]
    exec(compile(label, "label", "exec"), names)
    write_case(tmp_path / "one", shape=(20, 24, 4))
    for kind in ("mri", "pet"):
        (tmp_path / "one" / f"{kind}.nii.gz").rename(tmp_path / f"a_{kind}.nii.gz")
    task = names["FuseTask"]()
    assert task.is_valid() and task.dimension == 3
    path, told = task({"image": tmp_path / "a_mri.nii.gz", "pet_unit": "SUV", "aligned": True})
    assert nib.load(path).shape == (20, 24, 4) and told["notice"].startswith("Research use only")

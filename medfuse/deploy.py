"""MONAI Deploy: an operator that fuses DICOM studies, and the application around it. Needs `medfuse[deploy]`.

    python -m medfuse.deploy -i STUDIES -o OUT

In MONAI's own bundle operator two series cannot be told apart, and an image comes out as 8-bit integers: here the
series are chosen and checked, SUV is computed, and DICOM is written by medfuse, as by `medfuse batch`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from holoscan.conditions import CountCondition
from monai.deploy.core import Application, ConditionType, Operator, OperatorSpec

from medfuse.about import NOTICE
from medfuse.bundles import case_keys
from medfuse.errors import BundleError, MedfuseError
from medfuse.io import discover, list_series
from medfuse.pipeline import run_batch


class FuseStudiesOperator(Operator):  # type: ignore[misc]
    """Fuse the MRI and the PET of each DICOM study in a folder; write `OUT/CASE/` with `dicom/` in it.

    Output port `folder`: the folder of the results, for operators that follow. Research use only.
    """

    def __init__(
        self,
        fragment: Any,
        *args: Any,
        input_folder: Path,
        output_folder: Path,
        degradation: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Make the operator.

        Args:
            fragment: The application that it is part of.
            args: Conditions; `CountCondition(fragment, 1)` for one run.
            input_folder: DICOM studies, in any folders.
            output_folder: Where to write, outside of the input.
            degradation: What happened to the sources: a preset or a file, see `medfuse fuse --degradation`; the
                bundle's own by default.
            kwargs: What every operator takes, such as `name`.
        """
        self.input_folder, self.output_folder, self.degradation = input_folder, output_folder, degradation
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the output port."""
        spec.output("folder").condition(ConditionType.NONE)  # an operator that waits for a receiver never runs alone

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Fuse all studies.

        Raises:
            BundleError: A study could not be fused; the others are.
        """
        summary = run_batch(_studies(Path(self.input_folder)), Path(self.output_folder), degradation=self.degradation)
        if summary.failed:
            reasons = "; ".join(f"{case}: {message}" for case, message in summary.failed.items())
            raise BundleError(f"all studies must be fused, got {len(summary.failed)} that were not: {reasons}")
        op_output.emit(str(self.output_folder), "folder")


def _studies(folder: Path) -> list[dict[str, Any]]:
    """Return the studies of a folder as cases; MONAI Deploy gives one, in any folders, a PACS may give several."""
    if len({series.study for series in list_series(folder).series}) == 1:
        return [{"case": "study"} | dict.fromkeys(case_keys(), str(folder))]
    return discover(folder).cases


class FusionApplication(Application):  # type: ignore[misc]
    """The operator alone, with the folders that MONAI Deploy gives: `-i` and `-o`, or those of its environment."""

    def compose(self) -> None:
        """Add the operator."""
        context = Application.init_app_context(self.argv)  # a plain function, though it hangs on the class
        once, folders = CountCondition(self, 1), (Path(context.input_path), Path(context.output_path))
        operator = FuseStudiesOperator(self, once, input_folder=folders[0], output_folder=folders[1], name="fuse")
        self.add_operator(operator)


def main() -> int:
    """Run the application; 2 where a study cannot be fused."""
    try:
        FusionApplication().run()
    except MedfuseError as error:
        sys.stderr.write(f"medfuse: error: {error}\n")
        return 2
    sys.stdout.write(f"{NOTICE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

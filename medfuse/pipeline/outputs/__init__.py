"""What is written of a case: a table, and a function for each of its rows."""

from medfuse.pipeline.outputs.table import OUTPUTS, Output, write_outputs

__all__ = ["OUTPUTS", "Output", "write_outputs"]

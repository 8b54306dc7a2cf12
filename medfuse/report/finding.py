"""One thing to know of a case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing to know.

    Attributes:
        level: "warning": something is likely wrong or missing; "note": a limit that always holds, or a choice.
        text: Whole sentences.
    """

    level: Level
    text: str

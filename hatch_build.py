"""What the build adds to the metadata: the README as an index of packages can show it.

Links of the README are written for its folder. On an index page they lead nowhere: there each is its text and the path
in the source distribution, and a picture is what it shows.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?!\w+:)(?P<path>[^)#\s]*)(?:#[^)\s]*)?\)")


def index_page(readme: str) -> str:
    """Return a README without links that are relative."""

    def plain(link: re.Match[str]) -> str:
        if link["picture"]:
            return f"*{link['text']}.*"
        return f"{link['text']} (`{link['path']}`)" if link["path"] else link["text"]  # a heading of the page itself

    return _LINK.sub(plain, readme)


class ReadmeOnAnIndex(MetadataHookInterface):
    """Set the description of wheel and sdist."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add `readme`."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": index_page(text)}

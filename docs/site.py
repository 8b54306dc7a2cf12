"""Hooks of mkdocs: the site also holds what the pages link to outside this folder, at its place in the project.

A page reads alike as a file, in a viewer of repositories and on the site: links are written for files; here a link that
leaves `docs/` is led to a copy of its target on the site.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "bundles/pet_mri_fusion/docs/README.md",
    "bundles/ir_vis_fusion/docs/README.md",
)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")


def source(uri: str) -> PurePosixPath:
    """Return the place in the project of a page of the site."""
    return PurePosixPath(uri) if (ROOT / uri).is_file() else PurePosixPath("docs", uri)


def target(uri: str, link: str) -> str:
    """Return the path, from the root of the site, of what a page links to; a folder stands for its README."""
    path = PurePosixPath(os.path.normpath(source(uri).parent / link))
    if (ROOT / path).is_dir() and (ROOT / path / "README.md").is_file():
        path /= "README.md"
    return str(path.relative_to("docs")) if path.parts[0] == "docs" else str(path)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the project's other folders, and every file that a page links to there."""
    todo = [*PAGES, *(file.src_uri for file in files.documentation_pages())]
    seen: set[str] = set()
    while todo:
        uri = todo.pop()
        if uri in seen:
            continue
        seen.add(uri)
        if files.get_file_from_path(uri) is None and (ROOT / uri).is_file():
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / uri)))
        path = ROOT / source(uri)
        if path.suffix == ".md" and path.is_file():
            todo.extend(target(uri, link["path"]) for link in LINK.finditer(path.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead each link to its target on the site."""
    uri = page.file.src_uri

    def led(link: re.Match[str]) -> str:
        return os.path.relpath(target(uri, link["path"]), PurePosixPath(uri).parent) + (link["anchor"] or "")

    return LINK.sub(led, markdown)

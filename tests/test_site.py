"""The documentation as a site: built strictly, whole, by itself, legible and usable with the keyboard alone."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from report.test_browser import browser, driver, errors  # noqa: F401 (fixtures)

import medfuse
import medfuse.inferers
import medfuse.physics

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("index.html", "how-to/describe-a-degradation.html", "reference/outputs.html", "reference/python.html")

CONTRAST = """
const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
const over = (a, b) => { const t = a[3] ?? 1; return [0, 1, 2].map((i) => t * a[i] + (1 - t) * b[i]); };
const ground = (node) => {
  const layers = [];
  for (let e = node; e; e = e.parentElement) layers.push(parts(getComputedStyle(e).backgroundColor));
  return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
};
const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const poor = new Set();
let seen = 0;
const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (words.nextNode()) {
  const text = words.currentNode.data.trim(), e = words.currentNode.parentElement, style = getComputedStyle(e);
  if (!text || e.closest('.headerlink')) continue;
  if (!e.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
  const box = e.getBoundingClientRect();
  if (!box.width || !box.height) continue;
  seen += 1;
  const back = ground(e), pair = [light(over(parts(style.color), back)), light(back)].sort((a, b) => b - a);
  const size = parseFloat(style.fontSize), least = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
  const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
  if (ratio < least) poor.add(`${text.slice(0, 40)}: ${ratio.toFixed(2)} < ${least} (${e.className || e.tagName})`);
}
return [seen, [...poor]];
"""


ENTER = "\ue007"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Say nothing."""


def wait_for(browser, script):  # noqa: F811
    """Return what a script answers as soon as that is not empty."""
    for _ in range(80):
        if answer := browser.run(script):
            return answer
        time.sleep(0.25)
    pytest.fail(f"waited 20 s for {script}")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site; with `--strict` a dead link, a page outside the navigation or a docstring's slip is an error."""
    pytest.importorskip("mkdocs", reason="mkdocs is not here; install medfuse[docs]")
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def test_every_page_is_on_the_site(site):
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    assert len(pages) > 15
    assert [p for p in pages if not (site / p.with_suffix(".html")).is_file()] == []
    assert (site / "bundles" / "pet_mri_fusion" / "docs" / "index.html").is_file()


def test_links_that_leave_the_docs_reach_a_copy(site):
    page = (site / "how-to" / "train.html").read_text(encoding="utf-8")
    link = re.search(r'href="([^"]*data_license\.txt)"', page)[1]
    assert (site / "how-to" / link).resolve().read_bytes() == (
        ROOT / "bundles" / "pet_mri_fusion" / "docs" / "data_license.txt"
    ).read_bytes()


@pytest.mark.parametrize("package", [medfuse, medfuse.inferers, medfuse.physics])
def test_the_reference_holds_every_public_name(site, package):
    page = (site / "reference" / "python.html").read_text(encoding="utf-8")
    names = [name for name in getattr(package, "__all__", ("FusionInferer",)) if callable(getattr(package, name))]
    assert names
    assert [name for name in names if f"{package.__name__}.{name}" not in page] == []


def test_nothing_is_loaded_from_elsewhere(site):
    loads = re.compile(r'<(?:script|img|iframe|source|link(?![^>]*rel="?canonical))[^>]*(?:src|href)="?(?:https?:)?//')
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    assert [str(page) for page in pages if loads.search(page.read_text(encoding="utf-8"))] == []


def test_the_notice_stands_on_every_page(site):
    assert [str(page) for page in site.rglob("*.html") if "Research use only" not in page.read_text("utf-8")] == []


@pytest.mark.full
@pytest.mark.parametrize("scheme", ["default", "slate"])
@pytest.mark.parametrize("page", PAGES)
def test_text_is_legible(site, browser, page, scheme):  # noqa: F811
    """WCAG 2.2, 1.4.3: a contrast of 4.5, of 3 for large text."""
    browser.open(site / page)
    browser.run("document.head.insertAdjacentHTML('beforeend', '<style>* {transition: none !important}</style>')")
    browser.run(f"document.body.setAttribute('data-md-color-scheme', '{scheme}')")
    seen, poor = browser.run(CONTRAST)
    assert seen > 50
    assert poor == [], "\n".join(poor)


@pytest.mark.full
def test_the_keyboard_alone_finds_a_page(site, browser):  # noqa: F811
    """`/` opens the search, words find, Enter goes there."""
    handler = functools.partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            search_by_keyboard(browser, f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()


def search_by_keyboard(browser, root):  # noqa: F811
    browser.ask("POST", "/url", {"url": f"{root}/index.html"})
    wait_for(browser, "return document.querySelector('[data-md-component=search-query]')?.checkVisibility()")
    browser.press("/")
    wait_for(browser, "return document.activeElement.dataset.mdComponent === 'search-query'")
    browser.press(*"decimation")
    assert wait_for(browser, "return document.querySelector('.md-search-result__link')?.href").startswith(root)
    browser.press(ENTER)
    wait_for(browser, "return !location.pathname.endsWith('/index.html')")
    assert errors(browser) == []

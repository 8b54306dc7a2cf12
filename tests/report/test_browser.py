"""Both pages in a real browser, from files, without a network and without a GPU."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from medfuse.report import save_group_page, save_preview, save_report

pytestmark = pytest.mark.full
OPTIONS = [
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--window-size=1400,1000",
]  # fmt: skip


class Browser:
    """The little of the WebDriver protocol that these tests need."""

    def __init__(self, port: int, chromium: str) -> None:
        self.root = f"http://127.0.0.1:{port}"
        options = {"binary": chromium, "args": OPTIONS, "perfLoggingPrefs": {"enableNetwork": True}}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        session = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.root += f"/session/{session['sessionId']}"

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.root + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            pytest.fail(f"{method} {path}: {json.load(error)['value']['message'][:300]}")

    def open(self, path):
        self.ask("POST", "/url", {"url": path.as_uri()})

    def run(self, script):
        return self.ask("POST", "/execute/sync", {"script": script, "args": []})

    def find(self, selector):
        found = self.ask("POST", "/element", {"using": "css selector", "value": selector})
        return next(iter(found.values()))

    def click(self, selector):
        self.ask("POST", f"/element/{self.find(selector)}/click", {})

    def type(self, selector, keys):
        self.ask("POST", f"/element/{self.find(selector)}/value", {"text": keys})

    def press(self, *keys):
        """Press and release keys, wherever the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def picture(self, selector):
        """Return what is seen of an element, once two looks agree, as **[H, W, 3]**."""
        element, last = self.find(selector), None
        for _ in range(40):
            png = self.ask("GET", f"/element/{element}/screenshot")
            if png == last:
                break
            last = png
            time.sleep(0.2)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")).astype(int)

    def log(self, kind):
        return self.ask("POST", "/se/log", {"type": kind})

    def requested(self):
        """Return the addresses that were asked for."""
        messages = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return sent + [m["params"]["url"] for m in messages if m["method"] == "Network.webSocketCreated"]


@pytest.fixture(scope="module")
def driver():
    """Return a running chromedriver's port and the browser's path."""
    chromium = next(
        (p for name in ("chromium", "google-chrome", "chromium-browser") if (p := shutil.which(name))), None
    )
    command = shutil.which("chromedriver")
    if not chromium or not command:
        pytest.skip("Chromium and its driver are not here; install chromium and chromium-driver")
    process = subprocess.Popen([command, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        line = next(line for line in process.stdout if "successfully on port" in line)
        yield int(line.rstrip(". \n").rsplit(" ", 1)[1]), chromium
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


@pytest.fixture
def browser(driver):
    browser = Browser(*driver)
    yield browser
    browser.ask("DELETE", "")


@pytest.fixture(scope="module")
def report(tmp_path_factory, volumes, make_record):
    path = tmp_path_factory.mktemp("pages") / "case-1" / "case-1_report.html"
    save_report(path, record=make_record(), **volumes)
    return path


def state(browser, name):
    return browser.run(f"return document.getElementById('viewer').dataset['{name}']")


def wait_for_viewer(browser):
    for _ in range(240):
        if state(browser, "state") in ("ready", "unavailable"):
            break
        time.sleep(0.25)
    assert state(browser, "state") == "ready", state(browser, "error")


def errors(browser):
    return [entry["message"] for entry in browser.log("browser") if entry["level"] == "SEVERE"]


def test_viewer_shows_planes_and_slices_and_asks_for_nothing(browser, report):
    browser.open(report)
    wait_for_viewer(browser)
    assert state(browser, "shown") == "three"
    assert (state(browser, "base"), state(browser, "overlay")) == ("mri", "pet-restored")

    browser.click("[data-plane=axial]")
    assert state(browser, "shown") == "axial"
    assert browser.run("return document.querySelector('[data-plane=axial]').ariaPressed") == "true"
    seen = browser.picture("#viewer-canvas")
    assert (seen.max(-1) > 60).mean() > 0.05
    assert (seen[..., 0] - seen[..., 2] > 60).any()  # the palette of the PET
    readout = browser.run("return document.getElementById('viewer-readout').textContent")
    assert "mm: MRI" in readout and "SUV" in readout

    before = int(state(browser, "slice"))
    browser.type("#viewer-slice", "\ue012" * 4)  # arrow left
    assert int(state(browser, "slice")) == before - 4
    other = browser.picture("#viewer-canvas")
    assert np.abs(other - seen).max() > 60

    browser.click("#viewer-overlay option[value='']")
    assert state(browser, "overlay") == ""
    grey = browser.picture("#viewer-canvas")
    assert (grey[..., 0] - grey[..., 2] > 20).mean() < (other[..., 0] - other[..., 2] > 20).mean()

    browser.click("[data-plane=render]")
    assert state(browser, "shown") == "render"
    assert (browser.picture("#viewer-canvas").max(-1) > 60).any()
    assert errors(browser) == []
    assert [u for u in browser.requested() if not u.startswith(("file:///", "data:", "blob:"))] == []
    assert [u for u in browser.requested() if u.startswith("file:///") and u != report.as_uri()] == []


def ramp():
    """Return volumes of a case: a grey MRI, and a PET that rises from left to right, hottest in the middle slice."""
    shape = (28, 32, 20)
    x, _, z = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    mri = np.select([z < 4, z < 16], [0.0, 100.0], 200.0)
    pet = 7 * np.clip((x - 9) / 16, 0, 1) * (1 - 0.01 * np.abs(z - 10))
    volumes = {"sources": (mri, pet), "restored": (mri, pet), "fused": mri / 200, "weight": mri / 200}
    rgb = np.zeros((*shape, 3), np.uint8)
    return {**volumes, "rgb": rgb, "affine": np.diag([2.0, 2.0, 2.0, 1.0]), "pet_window": (0.0, 7.0)}


def test_an_overlay_fades_in_and_darkens_nothing(browser, tmp_path, make_record):
    save_report(tmp_path / "r.html", record=make_record(), **ramp())
    browser.open(tmp_path / "r.html")
    wait_for_viewer(browser)
    browser.click("[data-plane=axial]")
    shown = browser.picture("#viewer-canvas")
    browser.click("#viewer-overlay option[value='']")
    grey = browser.picture("#viewer-canvas")

    row = grey.shape[0] // 5  # above the cross, below the letter
    inside = np.flatnonzero((np.ptp(grey[row], axis=-1) < 8) & (np.abs(grey[row, :, 0] - 127) < 12))
    assert len(inside) > 100
    line, plain = shown[row, inside], grey[row, inside]
    if line[0].max() > line[-1].max():
        line, plain = line[::-1], plain[::-1]  # the patient's right is on the left
    cold = len(line) // 4
    assert np.abs(line[:cold] - plain[:cold]).max() <= 4  # where there is no uptake, the MRI is as it was
    assert line.max(-1).min() > 0.85 * plain.max(-1).min()  # little uptake is no shadow, as with all or nothing
    assert line[-1].max() > 220
    assert (line[:, 0] - line[:, 2]).max() > 60  # the palette


def test_opacity_is_that_of_the_hottest(browser, tmp_path, make_record):
    save_report(tmp_path / "r.html", record=make_record(), **ramp())
    browser.open(tmp_path / "r.html")
    wait_for_viewer(browser)
    browser.click("[data-plane=axial]")
    browser.type("#viewer-opacity", "\ue011")  # home
    assert state(browser, "opacity") == "0"
    none = browser.picture("#viewer-canvas")
    browser.click("#viewer-overlay option[value='']")
    assert np.abs(browser.picture("#viewer-canvas") - none).max() <= 4


def test_a_click_in_the_viewer_moves_the_cross(browser, report):
    browser.open(report)
    wait_for_viewer(browser)
    browser.click("[data-plane=coronal]")
    before = browser.run("return document.getElementById('viewer-readout').textContent")
    canvas = {"element-6066-11e4-a52e-4f735466cecf": browser.find("#viewer-canvas")}  # the key that W3C WebDriver fixes
    move = {"type": "pointerMove", "duration": 0, "x": 40, "y": 40, "origin": canvas}
    steps = [move, {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
    pointer = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": steps}
    browser.ask("POST", "/actions", {"actions": [pointer]})
    assert browser.run("return document.getElementById('viewer-readout').textContent") != before


def readout(browser):
    return browser.run("return document.getElementById('viewer-readout').textContent")


def test_values_of_both_sources_given_and_restored_are_told_under_the_pointer(browser, tmp_path, make_record):
    """The PET rises from right to left, and its restoration is 1.5 higher throughout."""
    volumes = ramp()
    mri, pet = volumes["sources"]
    changed = {**volumes, "restored": (mri, pet + 1.5)}
    save_report(tmp_path / "r.html", record=make_record(), **changed)
    browser.open(tmp_path / "r.html")
    wait_for_viewer(browser)
    browser.click("[data-plane=axial]")
    canvas = {"element-6066-11e4-a52e-4f735466cecf": browser.find("#viewer-canvas")}
    seen = {}
    for x in (-60, 0, 60):
        pointer = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}}
        move = {"type": "pointerMove", "duration": 0, "x": x, "y": 20, "origin": canvas}
        browser.ask("POST", "/actions", {"actions": [{**pointer, "actions": [move]}]})
        found = re.search(
            r"MRI given and restored (\S+) a.u.; PET given (\S+) SUV; PET restored (\S+) SUV", readout(browser)
        )
        assert found, readout(browser)
        seen[x] = [float(v) for v in found.groups()]
        assert seen[x][0] == pytest.approx(100, abs=2)
        assert seen[x][2] - seen[x][1] == pytest.approx(1.5, abs=0.1)  # 256 levels of each
    assert seen[-60][1] > seen[0][1] > seen[60][1]  # the patient's left is on the right, where x is lower


def test_level_window_and_palette_change_what_is_seen(browser, report):
    browser.open(report)
    wait_for_viewer(browser)
    browser.click("[data-plane=axial]")
    browser.click("#viewer-overlay option[value='']")
    plain, first = browser.picture("#viewer-canvas"), state(browser, "window")
    browser.type("#viewer-base-level", "\ue011")  # home: the level at the lower end of the window
    assert state(browser, "window") != first
    assert browser.picture("#viewer-canvas").mean() > plain.mean() + 5  # so all is brighter
    browser.click("#viewer-overlay option[value='pet']")
    hot = browser.picture("#viewer-canvas")
    browser.click("#viewer-palette option[value='rainbow']")
    assert state(browser, "palette") == "rainbow"
    rainbow = browser.picture("#viewer-canvas")
    assert np.abs(rainbow - hot).max() > 60
    browser.type("#viewer-overlay-window", "\ue011")
    assert np.abs(browser.picture("#viewer-canvas") - rainbow).max() > 60
    browser.click("#viewer-base option[value='colour']")
    assert browser.run("return document.getElementById('viewer-overlay').disabled") is True
    coloured = browser.picture("#viewer-canvas")
    assert (np.ptp(coloured, axis=-1) > 30).mean() > 0.01
    assert browser.run("return document.getElementById('viewer-bar').style.background").count("gradient") == 5
    assert errors(browser) == []


def test_given_and_restored_are_exchanged_by_a_click_or_blink(browser, report):
    browser.open(report)
    wait_for_viewer(browser)
    assert state(browser, "overlay") == "pet-restored"
    browser.click("#viewer-turn")
    assert (state(browser, "overlay"), state(browser, "turned")) == ("pet", "given")
    browser.click("#viewer-blink")
    assert state(browser, "blink") == "true"
    seen = set()
    for _ in range(40):
        seen.add(state(browser, "overlay"))
        time.sleep(0.1)
    assert seen == {"pet", "pet-restored"}
    browser.click("#viewer-blink")
    still = state(browser, "overlay")
    time.sleep(1.6)
    assert (state(browser, "blink"), state(browser, "overlay")) == ("false", still)


def test_the_outline_of_a_mask_is_a_line_that_can_be_left_out(browser, tmp_path, volumes, make_record):
    mask = np.zeros(volumes["fused"].shape, np.uint8)
    mask[8:20, 10:24, 5:15] = 2
    save_report(tmp_path / "r.html", record=make_record(), mask=mask, **volumes)
    browser.open(tmp_path / "r.html")
    wait_for_viewer(browser)
    browser.click("[data-plane=axial]")
    browser.click("#viewer-overlay option[value='']")
    assert state(browser, "outline") == "true"
    lined = browser.picture("#viewer-canvas")
    browser.click("#viewer-outline")
    plain = browser.picture("#viewer-canvas")
    changed = np.abs(lined - plain).max(-1) > 40
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    box = changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert 0.05 < box.mean() < 0.6  # a line along the box, not all of it
    middle = box[box.shape[0] * 3 // 8 : box.shape[0] * 5 // 8, box.shape[1] * 3 // 8 : box.shape[1] * 5 // 8]
    assert middle.mean() < 0.02


def test_three_dimensions_start_whole_and_the_slider_cuts(browser, report):
    browser.open(report)
    wait_for_viewer(browser)
    browser.click("[data-plane=render]")
    assert state(browser, "whole") == "true"
    whole = browser.picture("#viewer-canvas")
    browser.type("#viewer-slice", "\ue012" * 3)  # arrow left
    assert state(browser, "whole") == "false"
    assert np.abs(browser.picture("#viewer-canvas") - whole).max() > 30
    browser.type("#viewer-slice", "\ue010")  # end
    assert state(browser, "whole") == "true"


def test_the_keyboard_alone_reaches_and_drives_everything(browser, report):
    tab, enter, space, down, left = "\ue004", "\ue007", " ", "\ue015", "\ue012"
    look = """
        const e = document.activeElement, style = getComputedStyle(e), box = e.getBoundingClientRect();
        const seen = style.outlineStyle === "solid" && box.bottom > 0 && box.top < innerHeight;
        return [e === document.body ? "" : e.id || e.dataset.plane || e.className || e.textContent, seen]"""
    used = {
        "frame": (enter, "return document.querySelector('.frame').classList.contains('large')"),
        "axial": (space, "return document.getElementById('viewer').dataset.shown === 'axial'"),
        "viewer-overlay": (down, "return document.getElementById('viewer').dataset.overlay === 'pet'"),
        "viewer-slice": (left, None),
        "viewer-opacity": (left, "return document.getElementById('viewer').dataset.opacity === '85'"),
    }
    browser.open(report)
    wait_for_viewer(browser)
    reached = []
    while len(reached) < 60:
        browser.press(tab)
        name, seen = browser.run(look)
        if not name:
            break
        assert seen, name
        if name in used and name not in reached:
            key, done = used[name]
            before = state(browser, "slice")
            browser.press(key)
            assert browser.run(done) if done else int(state(browser, "slice")) == int(before) - 1
        reached.append(name)
    planes = ["axial", "coronal", "sagittal", "three", "render"]
    windows = [f"viewer-{role}{part}" for role in ("base", "overlay") for part in ("", "-level", "-window")]
    controls = [*windows, "viewer-palette", "viewer-slice", "viewer-opacity", "viewer-turn", "viewer-blink"]
    controls.append("viewer-canvas")
    start = reached.index("frame")
    assert reached[0] == "skip"
    assert len(reached[1:start]) == 7  # links to the sections
    end = start + 1 + len(planes) + len(controls)
    assert reached[start + 1 : end] == [*planes, *controls]
    assert reached[end:].count("table") == 4 and reached[-2] == "Copy the text"
    assert errors(browser) == []


def test_page_stays_readable_without_a_viewer(browser, report, tmp_path):
    text = report.read_text(encoding="utf-8").replace('getElementById("viewer-config")', 'getElementById("absent")')
    broken = tmp_path / "broken.html"
    broken.write_text(text, encoding="utf-8")  # its script is no longer the one the page allows
    browser.open(broken)
    assert state(browser, "state") == "waiting"
    assert any("Content Security Policy" in message for message in errors(browser))
    assert browser.run("return [...document.images].every(i => i.complete && i.naturalWidth > 1000)")


def test_pages_fit_narrow_screens_and_follow_the_colour_scheme(browser, report):
    browser.open(report)
    paper = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        parameters = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": [feature]}}
        browser.ask("POST", "/goog/cdp/execute", parameters)
        paper[scheme] = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert paper["light"] != paper["dark"]
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.ask("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": size})
    assert browser.run("return document.documentElement.scrollWidth") <= 390


def test_group_page_sorts_finds_and_leads_to_the_report(browser, report, volumes, make_record):
    records = []
    for case, chi2 in (("case-1", 0.9), ("case-2", 1.6), ("case-3", 0.3)):
        record = json.loads(json.dumps(make_record(case=case)))
        record["sources"]["pet"]["residual_chi2"] = chi2
        records.append(record)
    page = report.parents[1] / "index.html"
    arguments = {k: volumes[k] for k in ("sources", "restored", "rgb", "affine", "pet_window")}
    save_preview(page.with_name("preview.jpg"), **arguments)
    picture = page.with_name("preview.jpg").read_bytes()
    save_group_page(page, records, previews={"case-1": picture, "case-2": picture})
    browser.open(page)
    rows = "[...document.querySelectorAll('#cases-table tbody tr')]"
    order = f"return {rows}.filter(r => !r.hidden).map(r => r.cells[0].textContent)"
    assert browser.run(order) == ["case-2", "case-3", "case-1"]  # those with a warning come first
    browser.click("[data-sort='0']")
    assert browser.run(order) == ["case-1", "case-2", "case-3"]
    browser.click("[data-sort='5']")
    assert browser.run(order) == ["case-3", "case-1", "case-2"]
    browser.click("[data-sort='5']")
    assert browser.run(order) == ["case-2", "case-1", "case-3"]
    browser.type("#filter", "case-1")
    assert browser.run(order) == ["case-1"]
    assert browser.run("return [...document.images].every(i => i.complete && i.naturalWidth === 360)")
    assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.ask("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": size})
    assert browser.run("return document.documentElement.scrollWidth") <= 390
    assert browser.run("return document.querySelector('#cases-table tr[hidden]').offsetHeight") == 0
    assert [u for u in browser.requested() if not u.startswith(("file:///", "data:", "blob:"))] == []
    paper = {"width": 700, "height": 1000, "deviceScaleFactor": 1, "mobile": False}  # A4 less margins, 96 dpi
    browser.ask("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": paper})
    browser.ask("POST", "/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": {"media": "print"}})
    assert browser.run("return document.documentElement.scrollWidth") <= 700
    assert browser.run("return [...document.querySelectorAll('.table')].every(e => e.scrollWidth <= e.clientWidth)")
    browser.ask("POST", "/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": {"media": ""}})
    browser.click("#cases-table tr:not([hidden]) a")
    assert browser.run("return document.title") == "Fusion of case-1"
    assert errors(browser) == []

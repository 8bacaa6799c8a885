"""The report and the viewer in headless Chromium, opened from files as from a file share.

Chromium is driven through pipes by its DevTools protocol. Without it the tests are skipped;
`.ci/run` installs it where it can.
"""

import base64
import io
import json
import os
import re
import shutil
import subprocess
from itertools import count

import numpy as np
import pytest
from gigaseg.intensity import measure
from gigaseg.layers import CHANNELS, PREDICTED, TRUE
from gigaseg.pyramids import write_pyramid
from gigaseg.stages import view
from gigaseg.viewer import copy_program
from gigaseg.volumes import commit_image, commit_labels, create_array
from PIL import Image

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE = 30_000  # ms that a page may take to become what it is to become


class Chromium:
    """A browser and its DevTools protocol: messages of JSON, each ending in a NUL."""

    def __init__(self, profile):
        (there, self._out), (self._in, back) = os.pipe(), os.pipe()
        self._numbers, self._rest, self.events = count(1), b"", []
        command = f'exec "$@" 3<&{there} 4>&{back}'
        self.process = subprocess.Popen(
            ["bash", "-c", command, "bash", CHROMIUM, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(there, back),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(there)
        os.close(back)

    def ask(self, method, session=None, **parameters):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self):
        while b"\0" not in self._rest:
            data = os.read(self._in, 1 << 16)
            assert data, "Chromium has ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def close(self):
        self.ask("Browser.close")
        self.process.wait(20)
        os.close(self._out)
        os.close(self._in)


class Tab:
    """A page that was opened, with what it asked for and complained about."""

    def __init__(self, browser, path, size=(1400, 900)):
        self._browser = browser
        target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **metrics)
        self.ask("Page.navigate", url=path if isinstance(path, str) else path.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def ask(self, method, **parameters):
        return self._browser.ask(method, self._session, **parameters)

    def run(self, script):
        found = self.ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition):
        """Look until a condition holds, between the page's own work."""
        self.run(
            f"new Promise((done, fail) => {{ const end = Date.now() + {PATIENCE};"
            f"const look = () => {{ let is = false; try {{ is = {condition}; }} catch {{}}"
            "if (is) done(true); else if (Date.now() > end) fail(new Error('never: ' + "
            f"{json.dumps(condition)})); else setTimeout(look, 20); }}; look(); }})"
        )

    def events(self, method):
        mine = [e for e in self._browser.events if e.get("sessionId") == self._session]
        return [event["params"] for event in mine if event["method"] == method]

    @property
    def requests(self):
        return [event["request"]["url"] for event in self.events("Network.requestWillBeSent")]

    @property
    def complaints(self):
        logged = [e["entry"] for e in self.events("Log.entryAdded")]
        return (
            self.events("Runtime.exceptionThrown")
            + self.events("Network.loadingFailed")
            + [entry for entry in logged if entry["level"] in ("error", "warning")]
            + [
                said
                for said in self.events("Runtime.consoleAPICalled")
                if said["type"] in ("error", "warning", "assert")
            ]
        )

    def check(self):
        """Nothing went wrong, and nothing was asked of any network."""
        assert self.complaints == []
        assert self.requests
        assert [u for u in self.requests if not u.startswith(("file:", "data:", "about:"))] == []

    def press(self, key):
        text = {"text": key} if len(key) == 1 else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


STORAGE = {"chunk": 256, "shard": 1024, "smallest_level": 256}
SIDE = 2048


def write(store, data, commit, mode, attributes=None, **facts):
    create_array(store, "0", data.shape, data.dtype, storage=STORAGE)[...] = data
    levels = write_pyramid(store, mode=mode, storage=STORAGE)
    commit(store, spacing=(1, 0.25, 0.25), levels=levels, attributes=attributes or {}, **facts)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Make the viewer of a sample of three planes with squares, in panes of 256 px."""
    root = tmp_path_factory.mktemp("viewer")
    labels = np.zeros((3, SIDE, SIDE), np.uint32)
    for z, row, column in np.ndindex(3, SIDE // 64, SIDE // 64):
        y, x = 64 * row + 8 * z, 64 * column
        labels[z, y + 10 : y + 50, x + 10 : x + 50] = 1 + row * (SIDE // 64) + column
    image = np.where(labels > 0, 170 + labels % 60, 30).astype(np.uint8)[None]
    stores = {name: root / f"{name}.ome.zarr" for name in ("image", "probabilities", "instances")}
    write(stores["image"] / "labels" / "truth", labels, commit_labels, "nearest")
    statistics = {"statistics": measure(image)}
    write(stores["image"], image, commit_image, "mean", statistics, channel_names=["a"])
    maps = np.where(labels > 0, 230, 0).astype(np.uint8)[None]
    write(stores["probabilities"], maps, commit_image, "mean", channel_names=["interior"])
    write(stores["instances"], np.roll(labels, 4, axis=2), commit_labels, "nearest")
    inputs = {name: {"store": store, "fingerprint": name} for name, store in stores.items()}
    folder = root / "view/e/fold-0/cells/a.panes"
    cut = {"pane": 256, "quality": 85, "files": 8000, "planes": 256}
    copy_program(folder.parents[1] / "viewer")
    view.view_sample(inputs, folder, settings=cut, code="", workers=2)
    row, told = {"sample": "a", "dataset": "cells"}, {"experiment": "e", "fold": 0}
    view.write_page(folder, row, told, report=root / "report/report.html")
    return folder.with_name("a.html")


LOADED = "viewer.world.getItemCount() === layers.length && " + (
    "layers.every((layer, i) => !layer.on || viewer.world.getItemAt(i).getFullyLoaded())"
)


def levels(tab, layer, plane=1):
    """Return the levels of which panes were loaded."""
    part = f"/a.panes/{layer}/{plane}/"
    return {int(url.partition(part)[2].split("-")[0]) for url in tab.requests if part in url}


def colour(tab, x, y):
    """Return the colour of the screen where a pixel of the image is."""
    tab.wait(LOADED)
    tab.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    point = f"new OpenSeadragon.Point({x + 0.5} / width, {y + 0.5} / width)"
    left, top = tab.run(
        f"(() => {{ const p = viewer.viewport.pixelFromPoint({point}, true);"
        "const frame = element('picture').getBoundingClientRect();"
        "return [p.x + frame.left, p.y + frame.top]; })()"
    )
    clip = {"x": int(left), "y": int(top), "width": 1, "height": 1, "scale": 1}
    data = base64.b64decode(tab.ask("Page.captureScreenshot", clip=clip)["data"])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[0, 0].astype(int)


def is_like(found, expected):
    return np.abs(found - expected).max() < 12


def test_the_viewer_shows_its_panes_and_loads_finer_ones_when_it_is_zoomed(chromium, page):
    tab = Tab(chromium, page)
    tab.wait(LOADED)
    assert 0 not in levels(tab, "image")  # 2048 px, on fewer of the screen
    assert levels(tab, "image") & {1, 2, 3}
    assert levels(tab, "probability-0") == set()  # off at first
    for _ in range(3):
        tab.run("document.querySelector('[data-zoom=in]').click()")
    tab.wait("viewer.viewport.getZoom(true) > 5")
    tab.wait(LOADED)
    for layer in ("image", "truth", "instances"):
        assert 0 in levels(tab, layer)
    panes = {url for url in tab.requests if "/image/1/0-" in url}
    assert 1 <= len(panes) < (SIDE // 256) ** 2  # those that are seen
    tab.check()


def test_layers_show_what_they_are_and_toggle(chromium, page):
    # Truth begins at x = 10, the instances 4 px to the right; y = 38 is the middle of both.
    tab = Tab(chromium, f"{page.resolve().as_uri()}#z=1&x=0&y=0&w=100&h=100")
    assert is_like(colour(tab, 14, 38), PREDICTED)
    assert is_like(colour(tab, 9, 38), TRUE)
    assert is_like(colour(tab, 10, 38), TRUE)
    grey = colour(tab, 30, 38)
    assert np.ptp(grey) < 5
    tab.press("4")
    assert np.ptp(colour(tab, 14, 38)) < 12
    tab.run("document.getElementById('layer-truth').click()")
    assert np.ptp(colour(tab, 9, 38)) < 12
    tab.run("document.getElementById('layer-probability-0').click()")
    expected = 0.6 * 230 / 255 * (np.array(CHANNELS[0]) - grey) + grey
    assert is_like(colour(tab, 30, 38), expected)
    tab.run("document.getElementById('layer-image').click()")
    assert not is_like(colour(tab, 30, 38), expected)
    strength = "document.querySelectorAll('#layers input[type=range]')[1]"
    tab.run(f"{strength}.value = 0; {strength}.dispatchEvent(new Event('input'))")
    assert colour(tab, 30, 38).max() < 25
    tab.check()


def test_planes_turn_and_the_address_says_where_one_is(chromium, page):
    tab = Tab(chromium, f"{page.resolve().as_uri()}#z=1&x=0&y=0&w=100&h=100")
    assert is_like(colour(tab, 30, 18), PREDICTED)
    tab.press("PageUp")
    tab.wait("element('plane').textContent.includes('2 of 0 to 2')")
    tab.wait("viewer.world.getItemAt(3).source.getTileUrl(0, 0, 0).includes('/2/')")
    assert is_like(colour(tab, 30, 26), PREDICTED)
    assert levels(tab, "image", plane=2)
    assert tab.run("location.hash").startswith("#z=2&x=")
    again = Tab(chromium, tab.run("location.href"))
    assert is_like(colour(again, 30, 26), PREDICTED)
    again.check()
    tab.check()


def test_the_scale_is_true(chromium, page):
    tab = Tab(chromium, page)
    tab.wait(LOADED)
    text, screen = tab.run(
        "(() => { const bar = element('scale').firstElementChild;"
        "return [bar.textContent, bar.getBoundingClientRect().width]; })()"
    )
    length, unit = text.split()
    zoom = tab.run("viewer.viewport.getContainerSize().x / viewer.viewport.getBounds().width")
    assert unit == "µm"
    assert float(length) / 0.25 * zoom / SIDE == pytest.approx(screen, abs=1)


def test_the_report_sorts_and_leads_to_the_viewer(chromium, finished):
    path = finished.folder / "results/report/report.html"
    tab = Tab(chromium, path)
    rows = "[...document.querySelectorAll('#samples tbody tr')]"
    names = f"{rows}.map(row => row.cells[0].firstChild.data.trim())"
    before = tab.run(names)
    click = "document.querySelector('#samples th').click()"
    tab.run(click)
    assert tab.run(names) == sorted(before)
    tab.run(click)
    assert tab.run(names) == sorted(before, reverse=True)
    tab.check()
    assert [url for url in tab.requests if not url.startswith("data:")] == [path.as_uri()]
    links = tab.run("[...document.querySelectorAll('article a.viewer')].map(a => a.href)")
    assert len(links) == tab.run("document.querySelectorAll('article.sample').length") > 1
    for link in links:
        shown = Tab(chromium, link)
        shown.wait(LOADED)
        assert any("/image/" in url for url in shown.requests)
        back = shown.run("document.querySelector('header a').href")
        assert back == path.as_uri()
        shown.check()


def test_a_report_sent_alone_is_whole(chromium, finished, tmp_path):
    shutil.copy(finished.folder / "results/report/report.html", tmp_path)
    tab = Tab(chromium, tmp_path / "report.html")
    pictures = "[...document.images].filter(i => i.src)"
    # Those behind a fold are read when they are seen.
    tab.run(f"{pictures}.forEach(i => i.loading = 'eager')")
    tab.wait(f"{pictures}.every(i => i.complete)")
    assert tab.run(f"{pictures}.filter(i => !i.naturalWidth).length") == 0
    assert "folder view must lie beside" in tab.run("document.querySelector('a.viewer').title")
    tab.check()


@pytest.mark.parametrize("width", [1400, 400])
def test_pages_fit_the_screen(chromium, finished, page, width):
    for path in (finished.folder / "results/report/report.html", page):
        tab = Tab(chromium, path, (width, 850))
        assert tab.run("document.documentElement.scrollWidth") <= width
    tab.wait(LOADED)
    high = tab.run("element('picture').getBoundingClientRect().height")
    assert high > 0.4 * 850


def test_the_report_prints(chromium, finished):
    tab = Tab(chromium, finished.folder / "results/report/report.html")
    data = base64.b64decode(tab.ask("Page.printToPDF")["data"])
    assert data.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", data)) >= 2
    tab.check()

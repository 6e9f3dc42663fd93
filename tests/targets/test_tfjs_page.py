"""The web page in a real browser: what it finds is what ``segc predict`` finds, and it behaves."""

from __future__ import annotations

import json
import struct
import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from segc.targets.tfjs.node import node_version
from tests.targets.browser import Page, Server, find_chromium

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.targets.conftest import Trained

pytestmark = [
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium (apt-get install chromium)"),
    pytest.mark.skipif(node_version() is None, reason="there is no Node.js to compare with"),
]

HOSTILE = "<img src=x onerror=\"document.title='taken'\">"
"""Stands in the place of a class that the photographs have."""

SETTLED = "!byId('download').disabled && !refreshing || !byId('error').hidden"
"""The page has done what it was last asked for."""


@pytest.fixture(scope="module")
def artifact(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "art"
    names = tuple(HOSTILE if name == "star" else name for name in trained.names)
    trained._replace(names=names).emit("tfjs", folder, (160, 160))
    return folder


@pytest.fixture(scope="module")
def browser(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, str]]:
    chromium = find_chromium()
    assert chromium
    with Server(artifact) as server, Page(chromium, tmp_path_factory.mktemp("profile")) as page:
        yield page, server.address


@pytest.fixture
def page(browser: tuple[Page, str], tmp_path: Path) -> Page:
    """The page, loaded anew, its model ready."""
    page, address = browser
    page.requests.clear()
    page.problems.clear()
    page.size(1280, 800)
    page.scheme("light")
    page.downloads(tmp_path)
    page.open(address)
    page.wait("byId('status').textContent === 'Ready.'")
    return page


def enlarged(shapes: Path, name: str, folder: Path) -> Path:
    """One of the pictures as large as photographs are: 640 pixels wide."""
    image = cv2.imread(str(shapes / "images" / "train" / name))
    assert image is not None
    height = round(image.shape[0] * 640 / image.shape[1])
    cv2.imwrite(str(folder / name), cv2.resize(image, (640, height), interpolation=cv2.INTER_CUBIC))
    return folder / name


@pytest.fixture
def photo(shapes: Path, tmp_path: Path) -> Path:
    """A star among other things."""
    return enlarged(shapes, "00000.jpg", tmp_path)


@pytest.fixture
def png(photo: Path, tmp_path: Path) -> Path:
    """The same without loss, so that every decoder gives the same pixels."""
    path = tmp_path / "star.png"
    image = cv2.imread(str(photo))
    assert image is not None
    cv2.imwrite(str(path), image)
    return path


def by_the_page(page: Page, photo: Path, tmp_path: Path) -> dict[str, Any]:
    """What the page offers for download."""
    page.choose("#file", photo)
    page.wait(SETTLED)
    assert page.run("byId('error').textContent") == ""
    return downloaded(page, tmp_path / f"{photo.stem}.json")


def downloaded(page: Page, path: Path) -> dict[str, Any]:
    page.wait("!byId('download').disabled")
    page.run("byId('download').click()")
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} was not downloaded"
        time.sleep(0.05)
    (record,) = json.loads(path.read_bytes())
    path.unlink()
    return dict(record)


def by_segc(artifact: Path, photo: Path, tmp_path: Path, *arguments: str) -> dict[str, Any]:
    from segc.cli import run

    out = tmp_path / "ours"
    model = str(artifact / "photos_web_model")
    options = ["--artifact", model, "-o", str(out), "--save-json", "--no-overlay", "--no-retina", *arguments]
    assert run(["predict", str(photo), *options]) == 0
    (record,) = json.loads((out / "predictions.json").read_bytes())
    return dict(record)


def bitmap(record: dict[str, Any], row: int) -> np.ndarray:
    counts = record["detections"][row]["mask"]["counts"]
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts)


def same(theirs: dict[str, Any], ours: dict[str, Any], *, box: float, score: float, mask: float) -> None:
    assert (theirs["height"], theirs["width"]) == (ours["height"], ours["width"])
    assert [d["class"] for d in theirs["detections"]] == [d["class"] for d in ours["detections"]]
    assert ours["detections"]
    for row, (other, mine) in enumerate(zip(theirs["detections"], ours["detections"], strict=True)):
        assert list(other) == list(mine)
        assert other["box"] == pytest.approx(mine["box"], abs=box)
        assert other["score"] == pytest.approx(mine["score"], abs=score)
        a, b = bitmap(theirs, row), bitmap(ours, row)
        assert np.count_nonzero(a & b) > mask * np.count_nonzero(a | b)


def test_on_a_png_the_page_finds_what_segc_predict_finds(page: Page, png: Path, artifact: Path, tmp_path: Path) -> None:
    theirs = by_the_page(page, png, tmp_path)
    ours = by_segc(artifact, png, tmp_path)
    same(theirs, ours, box=0.011, score=2e-5, mask=0.9995)
    assert theirs["image"] == "star.png"


@pytest.mark.parametrize("name", ["00001.jpg", "00002.jpg", "00003.jpg"])
def test_on_a_photograph_the_page_finds_what_segc_predict_finds(
    name: str, page: Page, artifact: Path, shapes: Path, tmp_path: Path
) -> None:
    photo = enlarged(shapes, name, tmp_path)
    same(by_the_page(page, photo, tmp_path), by_segc(artifact, photo, tmp_path), box=0.5, score=1e-3, mask=0.98)


STORED = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
}
"""EXIF orientation to how the pixels of an upright photograph are stored."""


def turned(photo: Path, path: Path, orientation: int) -> Path:
    """The photograph as a camera stores it that was held otherwise, with the EXIF entry that says so."""
    image = cv2.imread(str(photo))
    assert image is not None
    content = cv2.imencode(".jpg", STORED[orientation](image), [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    exif = b"Exif\0\0" + struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 0x0112, 3, 1, orientation, 0)
    path.write_bytes(content[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + content[2:])
    return path


@pytest.mark.parametrize("orientation", STORED)
def test_photographs_are_turned_as_segc_turns_them(
    orientation: int, page: Page, photo: Path, artifact: Path, tmp_path: Path
) -> None:
    path = turned(photo, tmp_path / "turned.jpg", orientation)
    theirs = by_the_page(page, path, tmp_path)
    upright = cv2.imread(str(photo))
    assert upright is not None
    assert (theirs["height"], theirs["width"]) == upright.shape[:2]
    same(theirs, by_segc(artifact, path, tmp_path), box=0.5, score=1e-3, mask=0.98)


def test_thresholds_act_at_once(page: Page, png: Path, artifact: Path, tmp_path: Path) -> None:
    usual = by_the_page(page, png, tmp_path)
    for name, value in (("conf", 0.01), ("iou", 0.95)):
        page.run(f"byId('{name}').value = {value}; byId('{name}').dispatchEvent(new Event('input'))")
    assert page.run("byId('conf-value').textContent") == "0.01"
    page.wait("!refreshing")
    more = downloaded(page, tmp_path / "star.json")
    assert len(more["detections"]) > len(usual["detections"])
    same(more, by_segc(artifact, png, tmp_path, "--conf", "0.01", "--iou", "0.95"), box=0.02, score=2e-5, mask=0.99)
    assert page.run("byId('found').children.length") == len(more["detections"])
    page.run("byId('conf').value = 1; byId('conf').dispatchEvent(new Event('input'))")
    page.wait("!refreshing")
    assert page.run("byId('status').textContent").startswith("Nothing found")


def test_nothing_is_asked_of_any_other_server(
    page: Page, browser: tuple[Page, str], photo: Path, tmp_path: Path
) -> None:
    by_the_page(page, photo, tmp_path)
    asked = [address for address in page.requests if not address.startswith(("blob:", "data:"))]
    assert any(address.endswith(".wasm") for address in asked)
    assert any(address.endswith(".bin") for address in asked)
    assert [address for address in asked if not address.startswith(browser[1])] == []
    assert page.problems == []


def test_the_pictures_show_what_was_found(page: Page, png: Path, tmp_path: Path) -> None:
    """Inside of the mask the photograph is tinted, beside the boxes it is as it was."""
    record = by_the_page(page, png, tmp_path)
    x1, y1, x2, y2 = record["detections"][0]["box"]
    inside, beside = f"{(x1 + x2) / 2}, {(y1 + y2) / 2}", "3, 3"
    pixel = """(async () => {
        const canvas = byId("picture"), scale = canvas.width / view.photo.size[1];
        const plain = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
        plain.drawImage(view.photo.picture, 0, 0, canvas.width, canvas.height);
        const at = (context, x, y) => [...context.getImageData(x * scale, y * scale, 1, 1).data];
        return [at(canvas.getContext("2d"), POINT), at(plain, POINT)];
    })()"""
    drawn, original = page.run(pixel.replace("POINT", beside))
    assert drawn == original
    drawn, original = page.run(pixel.replace("POINT", inside))
    assert drawn != original


def test_names_of_strangers_do_nothing(page: Page, photo: Path, tmp_path: Path) -> None:
    record = by_the_page(page, photo, tmp_path)
    assert HOSTILE in [row["class"] for row in record["detections"]]
    assert HOSTILE in page.run("byId('found').textContent")
    assert page.run("document.title") == "photos"
    assert page.run("document.images.length") == 0


def test_photographs_can_be_dropped(page: Page, photo: Path) -> None:
    page.drop(300, 300, photo)
    page.wait(SETTLED)
    assert page.run("byId('found').children.length") > 0


def test_photographs_can_be_pasted(page: Page, artifact: Path, png: Path) -> None:
    (artifact / "pasted.png").write_bytes(png.read_bytes())
    page.run("""(async () => {
        const data = new DataTransfer();
        data.items.add(new File([await (await fetch("pasted.png")).blob()], "image.png", { type: "image/png" }));
        document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
    })()""")
    (artifact / "pasted.png").unlink()
    page.wait(SETTLED)
    assert page.run("byId('found').children.length") > 0


def test_the_keyboard_reaches_everything(page: Page, photo: Path) -> None:
    reached = []
    for _ in range(3):
        page.press("Tab", 9)
        reached.append(page.run("document.activeElement.id"))
    assert reached == ["file", "conf", "iou"]
    page.choose("#file", photo)
    page.wait(SETTLED)
    reached = []
    for _ in range(5):  # Round about, by way of the browser's own parts.
        page.press("Tab", 9)
        reached.append(page.run("document.activeElement.id"))
    assert set(reached) - {""} == {"conf", "iou", "another", "download"}


def test_a_file_that_is_no_image_is_said_to_be_none_and_the_next_one_works(
    page: Page, photo: Path, tmp_path: Path
) -> None:
    for name, content in (("text.jpg", b"no image"), ("empty.png", b""), ("cut.jpg", photo.read_bytes()[:300])):
        (tmp_path / name).write_bytes(content)
        page.choose("#file", tmp_path / name)
        page.wait("!byId('error').hidden")
        assert page.run("byId('error').textContent") == "This file is no image that the browser can read."
        page.run("showError('')")
    by_the_page(page, photo, tmp_path)


def test_text_that_is_dropped_is_no_file(page: Page) -> None:
    page.run("""document.dispatchEvent(new DragEvent("drop", { dataTransfer: new DataTransfer() }))""")
    assert "That is no file" in page.run("byId('error').textContent")


def test_opened_as_a_file_the_page_tells_how_to_serve_it(browser: tuple[Page, str], artifact: Path) -> None:
    page, _ = browser
    page.open((artifact / "index.html").as_uri())
    assert f"run python -m http.server in {artifact} and open" in page.run("byId('error').textContent")


def test_a_model_that_is_not_there_is_named(browser: tuple[Page, str], artifact: Path, photo: Path) -> None:
    page, address = browser
    (artifact / "photos_web_model").rename(artifact / "elsewhere")
    try:
        page.open(address)
        page.wait("!byId('error').hidden")
        text = page.run("byId('error').textContent")
        assert text == "photos_web_model/model.json cannot be loaded: the server answered 404."
        page.choose("#file", photo)
        page.wait("byId('error').textContent === 'There is no model to run.'")
    finally:
        (artifact / "elsewhere").rename(artifact / "photos_web_model")


@pytest.mark.parametrize(("width", "height", "density"), [(1280, 800, 1.0), (390, 844, 3.0), (320, 568, 2.0)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_every_screen(
    scheme: str, width: int, height: int, density: float, page: Page, photo: Path, tmp_path: Path
) -> None:
    page.scheme(scheme)
    page.size(width, height, density)
    by_the_page(page, photo, tmp_path)
    assert page.run("document.documentElement.scrollWidth") <= width
    shown, pixels = page.run("[byId('picture').getBoundingClientRect().width, byId('picture').width]")
    assert 0.6 * width <= shown + 320 + 40
    assert pixels == pytest.approx(shown * density, abs=2)
    ground = page.run("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(246, 247, 248)", "dark": "rgb(20, 23, 27)"}[scheme]

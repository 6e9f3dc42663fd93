"""The page beside a model: true of the model, whole, the same every time, and safe whatever classes are called."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segc.architectures.yolov8_seg import SCALES, build
from segc.emission.readme import OUTPUTS, render_readme
from segc.emission.script import markdown
from segc.inference.filters import Filters, Tiling, Tracking
from segc.inference.letterbox import letterbox, letterbox_geometry
from segc.inference.masks import cut_mask, image_masks, masks_to_image
from segc.inference.metadata import LAYOUTS, Metadata
from segc.targets import tfjs
from segc.targets.registry import targets
from segc.targets.tensorrt.build import build_arguments, profile_for
from segc.weights.lineage import Link, line

NAMES = ("circle", "square")
PARITY = {
    "runtime": "a runtime",
    "images": 3,
    "outputs": {"boxes": {"max_abs_error": 0.5, "mean_abs_error": None, "allowed": 0.001}},
    "detections": {"conf": 0.25, "reference": 9, "artifact": 8, "matched": 7},
}
LEFT = {"conf": 0.25, "iou": 0.7, "max_det": 50}
SUPPRESSED = sorted(layout for layout in LAYOUTS if layout not in {"named", "fused"})


def page(
    target: str = "onnx",
    names: tuple[str, ...] = NAMES,
    notes: tuple[str, ...] = (),
    filters: Filters | None = None,
    model: str | None = None,
    files: tuple[str, ...] = ("predict.py", "metadata.json"),
    **settings: Any,
) -> str:
    entry = targets()[target]
    options = settings.pop("options", None) or entry.default_options()
    settings = {**entry.settings(options), **settings}
    metadata = replace(Metadata(names, (96, 160), segc_version="0"), **settings)
    model = model or f"shapes{entry.suffix}"
    description = {
        "model": model,
        "status": "verified",
        "notes": list(notes),
        "parity": PARITY,
        "files": {name: {} for name in (*files, model)},
    }
    graph = build(SCALES["n"], len(names), (96, 160))
    weights = (Link("weights", "start.pt", licence="AGPL-3.0 (https://x.example)"), Link("training", "shapes"))
    defaults = filters or Filters(by_class={names[0]: 0.5})
    return render_readme(entry, options, metadata, graph, defaults, weights, line(weights), description)


def rows(text: str, title: str) -> list[list[str]]:
    """The cells of the table whose head begins so, without its head."""
    table = text.partition(f"| {title} |")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


@pytest.mark.parametrize("target", targets())
def test_every_target_has_a_page_without_loose_ends(target: str) -> None:
    text = page(target)
    assert text == page(target)
    assert text.endswith(".\n")
    for rest in ("{{", "{%", "None", "built-in", "\n\n\n"):
        assert rest not in text, rest
    assert [line for line in text.splitlines() if line != line.rstrip()] == []
    for said in ("grey 114", "order RGB", "conf of circle", "AGPL-3.0", "1. square", "| 0.5 px | 0.001 | not finite |"):
        assert said in text, said


@pytest.mark.parametrize("layout", LAYOUTS)
def test_outputs_are_told_as_the_metadata_have_them(layout: str) -> None:
    text = page(layout=layout, **(LEFT if layout in SUPPRESSED else {}))
    assert [row[0].strip("`") for row in rows(text, "output")[: len(LAYOUTS[layout])]] == list(LAYOUTS[layout])
    assert ("Suppress: from the highest score down" in text) == (layout not in SUPPRESSED)
    assert set(OUTPUTS) >= set(LAYOUTS)


def steps(text: str) -> list[str]:
    """What is done with outputs, one after the other."""
    return re.findall(
        r"^\d+\. (.*)$", text.partition("## From outputs to objects")[2].partition("\n\n|")[0], re.MULTILINE
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores_by_class_are_a_step_and_rows_of_the_table(layout: str) -> None:
    """Graphs that suppress take the least of all, and leave the others to who runs them."""
    by_class = {"circle": 0.9, "default": 0.25}
    settings: dict[str, Any] = {"layout": layout, **(LEFT if layout in SUPPRESSED else {})}
    text = page(filters=Filters(by_class=by_class), **settings)
    (place,) = (index for index, step in enumerate(steps(text)) if "conf of their class" in step)
    before, after = steps(text)[:place], steps(text)[place + 1 :]
    assert any("Suppress" in step or "has suppressed" in step for step in before)
    assert after[0].startswith("Box on the photograph")
    told = {row[0]: row[1:] for row in rows(text, "threshold")}
    assert (told["conf of circle"][0], told["conf of every other class"][0]) == ("0.9", "0.25")
    assert ("the model has left them in" in told["conf of circle"][1]) == (layout in SUPPRESSED)
    assert "conf of default" not in told
    assert "conf of their class" not in page(filters=Filters(), **settings)


def test_scores_by_class_are_told_as_they_hold() -> None:
    """What the model asks of all classes, or what the spec says of those that it does not name."""

    def told(names: tuple[str, ...], conf: float, by_class: dict[str, float]) -> dict[str, str]:
        table = rows(page(names=names, filters=Filters(conf, by_class=by_class)), "threshold")
        return {row[0]: row[1] for row in table if row[0].startswith("conf of")}

    assert told(NAMES, 0.5, {"circle": 0.9, "default": 0.25})["conf of every other class"] == "0.5"
    assert told(NAMES, 0.25, {"circle": 0.9})["conf of every other class"] == "0.25"
    assert told(NAMES, 0.4, {"circle": 0.9, "square": 0.4}) == {"conf of circle": "0.9", "conf of square": "0.4"}


def test_what_the_program_does_beside_the_steps_is_said() -> None:
    text = page(filters=Filters(tiles=Tiling(320, whole=True), track=Tracking()))
    assert "tiles of 320 x 320 pixels that overlap by a share of 0.2, and on the whole besides" in text
    assert {"`--tile 0`", "`--no-track`"} <= set(re.findall(r"`--[^`]*`", text))
    assert "`--tile 0`" not in page()
    assert "`--no-track`" not in page()


@pytest.mark.parametrize(
    ("settings", "taken", "prototypes"),
    [
        ({}, "[1, 3, 96, 160]", "[1, 32, 24, 40]"),
        ({"batch": 4}, "[4, 3, 96, 160]", "[4, 32, 24, 40]"),
        ({"channels": "last"}, "[1, 96, 160, 3]", "[1, 24, 40, 32]"),
        ({"dynamic": True}, "[N, 3, H, W]", "[N, 32, H/4, W/4]"),
    ],
)
def test_shapes_are_those_of_the_file(settings: dict[str, Any], taken: str, prototypes: str) -> None:
    text = page(**settings)
    assert rows(text, "input")[0][2] == taken
    assert rows(text, "output")[3][2] == prototypes
    anchors = "A" if settings.get("dynamic") else "315"
    assert rows(text, "output")[1][2] == f"[{taken[1]}, {anchors}, 2]"


def test_what_a_client_must_know_of_integers_and_images_is_said() -> None:
    options = targets()["tflite"].options.model_validate({"format": "tflite", "int8": True})
    text = page("tflite", options=options)
    assert "Subtract 128 from every byte" in text
    assert "value = (integer + 128) / 255. Outputs are floats" in text
    assert {row[1] for row in rows(text, "output")[:4]} == {"float32"}
    assert rows(page("coreml"), "input")[0][:3] == ["`image`", "image", "H x W"]


BESIDE = {
    "tensorrt": ("shapes.onnx",),
    "saved_model": ("shapes.keras",),
    "graphdef": ("metadata.json",),
    "edgetpu": ("shapes.tflite",),
    "tfjs": tuple(tfjs.PAGE),
}
"""What targets write beside the model and what is generated."""


@pytest.mark.parametrize("target", targets())
def test_every_file_beside_a_model_is_explained(target: str) -> None:
    entry = targets()[target]
    generated = [name for _, name in entry.templates]
    found = dict(rows(page(target, files=(*generated, *BESIDE.get(target, ()))), "file"))
    names = {f"shapes{entry.suffix}", *generated, *BESIDE.get(target, ()), "README.md", "artifact.json"}
    assert {name.strip("`") for name in found} == names
    assert len(set(found.values())) == len(names)
    assert "goes with it" not in found.values()


def test_a_file_that_its_target_does_not_explain_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"the files of the target onnx do not say what notes\.txt is"):
        page("onnx", files=("notes.txt",))


def test_a_kit_is_finished_before_it_is_run() -> None:
    kit, engine = (page("tensorrt", model=model).partition("## What goes in")[0] for model in ("shapes.onnx", None))
    commands = re.findall(r"^    (.*)$", kit, re.MULTILINE)
    assert commands[1:3] == ["python build_engine.py", "python predict.py photo.jpg"]
    assert "`build_engine.py` makes `shapes.engine` of `shapes.onnx`" in kit
    assert "build_engine.py" not in engine


def test_limits_of_an_engine_are_those_that_it_is_built_with() -> None:
    text = page("tensorrt", dynamic=True)
    most = profile_for((96, 160), 32).largest
    assert most == (8, 3, 320, 320)
    assert "free within the limits below" in text
    assert "up to 8 images a run, with sides from 32 up to 320 pixels" in text
    options = build_arguments([], Path("shapes.onnx"), None, (96, 160))
    assert (options.max_batch, options.max_side) == (8, 320)
    for bare in (page("tensorrt"), page(dynamic=True)):
        assert "limits" not in bare


HOSTILE = (
    "<script>alert(1)</script>",
    "a | b",
    "`rm -rf /`",
    "[here](https://x.example)",
    "![](https://x.example/spy.png)",
    "www.x.example",
    "# Title",
    "me@x.example",
    "back\\slash",
)


def test_names_of_classes_are_text_and_nothing_else() -> None:
    text = page(names=HOSTILE, notes=HOSTILE)
    for wrong in ("<script", "](http", "https://", "www.x", "me@x"):
        assert wrong not in re.sub(r"\\([^\w\s])", "\x00", text), wrong
    listed = text.partition("## Classes\n\n")[2].partition("\n\n")[0].splitlines()
    assert len(listed) == len(HOSTILE)
    # A reader of Markdown takes the escapes off again.
    assert [re.sub(r"\\([^\w\s])", r"\1", line.partition(". ")[2]) for line in listed] == list(HOSTILE)


def test_what_cannot_be_seen_is_replaced() -> None:
    assert markdown("a\nb\x1b[1m\u202e") == "a\ufffdb\ufffd\\[1m\ufffd"


def test_of_very_many_classes_some_are_listed_and_the_rest_is_named() -> None:
    text = page(names=tuple(f"class {number}" for number in range(1000)))
    assert "199. class 199\n" in text
    assert "200. class 200" not in text
    assert "The other 800 stand in `artifact.json`" in text


@pytest.mark.parametrize("photograph", [(481, 640), (1000, 2), (2, 1000), (483, 640), (70, 123)])
def test_the_steps_as_they_are_written_place_any_photograph(photograph: tuple[int, int]) -> None:
    """With the rounding that the page has: of two whole numbers the even one."""
    text = page()
    assert "of two the even one: 240.5 becomes 240, and 241.5 becomes 242" in text
    known: dict[str, Any] = {"h": photograph[0], "w": photograph[1], "H": 320, "W": 320}
    for name, formula in re.findall(r"`([a-z]+'?) = ([^`]*)`", text):
        known[name.replace("'", "_")] = eval(formula.replace("·", "*").replace("'", "_"), {}, known)
    geometry = letterbox_geometry(photograph, (320, 320))
    assert (known["h_"], known["w_"]) == geometry.resized
    assert (known["left"], known["top"]) == (geometry.left, geometry.top)


def test_what_decoders_and_scalers_do_differently_is_said() -> None:
    text = page()
    for said in ("Colour profiles are ignored", "transparency is dropped", "without antialiasing", "centres of pixels"):
        assert said in text, said


@pytest.mark.parametrize("photograph", [(96, 160), (70, 123)])
def test_a_photograph_is_scaled_as_the_page_says(photograph: tuple[int, int]) -> None:
    (h, w), (h_, w_) = photograph, letterbox_geometry(photograph, (48, 80)).resized
    pixels = np.random.default_rng(5).integers(0, 256, (h, w, 3)).astype(np.uint8)
    frame, geometry = letterbox(pixels, (48, 80))
    y, x = (np.clip((np.arange(new) + 1 / 2) * old / new - 1 / 2, 0, old - 1) for new, old in ((h_, h), (w_, w)))
    scaled = bilinear(pixels.astype(float), y, x)
    inner = frame[geometry.top : geometry.top + h_, geometry.left : geometry.left + w_]
    # OpenCV's weights have 11 bits.
    assert np.abs(inner - scaled).max() <= 1


def bilinear(grid: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The values of a grid [rows, columns, ...] between its cells, at these rows and columns."""
    (y0, fy), (x0, fx) = ((place.astype(int), place % 1) for place in (y, x))
    yn, xn = np.minimum(y0 + 1, len(grid) - 1), np.minimum(x0 + 1, grid.shape[1] - 1)
    more = (..., *(None,) * (grid.ndim - 2))
    fy, fx = fy[:, None][more], fx[more]
    upper, lower = (grid[row][:, x0] * (1 - fx) + grid[row][:, xn] * fx for row in (y0, yn))
    return np.asarray(upper * (1 - fy) + lower * fy)


@pytest.mark.parametrize(("photograph", "rounding"), [((48, 80), 0), ((70, 123), 1e-6), ((300, 41), 1e-6)])
def test_finished_masks_are_brought_to_the_photograph_as_the_page_says(
    photograph: tuple[int, int], rounding: float
) -> None:
    """What is exactly one half belongs to no object: half as large, a photograph reads halfway between two cells."""
    step = steps(page(layout="masks", **LEFT))[-1]
    assert "x = (px + 1/2) · w' / w + left - 1/2, y = (py + 1/2) · h' / h + top - 1/2" in step
    assert "above 1/2; at exactly 1/2 it does not" in step
    (h, w), (height, width) = photograph, (96, 160)
    geometry = letterbox_geometry(photograph, (height, width))
    (h_, w_), left, top = geometry.resized, geometry.left, geometry.top
    finished = np.random.default_rng(7).random((height, width)) > 0.5
    box = np.array([0, 0, width, height], np.float32)
    (mask,) = masks_to_image([cut_mask(finished, box)], geometry)
    y = np.clip((np.arange(h) + 1 / 2) * h_ / h + top - 1 / 2, 0, height - 1)
    x = np.clip((np.arange(w) + 1 / 2) * w_ / w + left - 1 / 2, 0, width - 1)
    values = bilinear(finished.astype(float), y, x)
    assert (values == 0.5).any()
    sure = np.abs(values - 0.5) >= rounding
    assert (mask.full(h, w) == (values > 0.5))[sure].all()


def test_the_steps_as_they_are_written_give_the_masks_of_the_predict_script() -> None:
    """A client by somebody who has read the page, and nothing else."""
    random = np.random.default_rng(3)
    h, w, (height, width) = 70, 123, (96, 160)
    s = min(height / h, width / w)
    h_, w_ = round(h * s), round(w * s)
    left, top = round((width - w_) / 2 - 0.1), round((height - h_) / 2 - 0.1)
    geometry = letterbox_geometry((h, w), (height, width))
    assert (geometry.resized, geometry.left, geometry.top) == ((h_, w_), left, top)
    coefficients = random.standard_normal((1, 32)).astype(np.float32)
    prototypes = random.standard_normal((32, height // 4, width // 4)).astype(np.float32)
    frame = np.array([[20.3, 14.8, 141.2, 80.6]], np.float32)
    x1, y1, x2, y2 = (
        float(np.clip((value - start) * side / new, 0, side))
        for value, start, side, new in zip(frame[0], (left, top) * 2, (w, h) * 2, (w_, h_) * 2, strict=True)
    )
    m = np.tensordot(coefficients[0], prototypes, 1)
    y = np.clip(((np.arange(h) + 1 / 2) * h_ / h + top) / 4 - 1 / 2, 0, height // 4 - 1)
    x = np.clip(((np.arange(w) + 1 / 2) * w_ / w + left) / 4 - 1 / 2, 0, width // 4 - 1)
    py, px = np.mgrid[:h, :w]
    found = (bilinear(m, y, x) > 0) & (x1 <= px) & (px < x2) & (y1 <= py) & (py < y2)
    (mask,) = image_masks(coefficients, prototypes, frame, geometry, retina=True)
    assert found.sum() > 1000
    assert (mask.full(h, w) == found).mean() > 0.9999

"""How well numbers stay with objects: segc's tracker beside public ones, on the same detections.

    python benchmarks/track.py [--peer PYTHON] [--project project.yaml --weights FILE] [--json FILE]

The sequences are those of ``benchmarks/sequences.py``, with detections that are perfect and such as a middling detector
makes; given a project of ``examples/shapes`` and its weights, also drawn films with what that network finds on them.
``--peer`` names a Python that has Roboflow's ``trackers`` (Apache-2.0): its ByteTrack and OC-SORT then run on the same
boxes, with the thresholds of segc. Times are processor time of the tracker alone, a frame.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.sequences import SCENES, Kept, Scene, measure, poor_detections, prediction
from segc.inference.masks import Mask
from segc.inference.tracking import Tracker, Tracking

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from segc.inference.results import Prediction

CONF = 0.25
"""Least score of a detection that starts a track, for all trackers."""

PEER = """\
import json, sys, time, warnings
import numpy as np
import supervision as sv
import trackers
warnings.filterwarnings("ignore")
conf = float(sys.argv[1])
makes = {
    "trackers ByteTrack": lambda: trackers.ByteTrackTracker(
        lost_track_buffer=30, track_activation_threshold=conf, high_conf_det_threshold=conf),
    "trackers OC-SORT": lambda: trackers.OCSORTTracker(lost_track_buffer=30, high_conf_det_threshold=conf),
}
answers = {"version": __import__("importlib.metadata", fromlist=["x"]).version("trackers")}
sequences = json.load(sys.stdin)
for name, make in makes.items():
    answers[name] = {}
    for title, frames in sequences.items():
        tracker, rows, seconds = make(), [], 0.0
        for frame in frames:
            n = len(frame["scores"])
            given = sv.Detections(
                xyxy=np.array(frame["boxes"], float).reshape(-1, 4), confidence=np.array(frame["scores"], float),
                class_id=np.array(frame["classes"], int), data={"row": np.arange(n)})
            started = time.process_time()
            found = tracker.update(given)
            seconds += time.process_time() - started
            identities = [0] * n
            given_ids = [] if found.tracker_id is None else found.tracker_id
            for row, identity in zip(found.data.get("row", []), given_ids):
                identities[int(row)] = max(0, int(identity) + 1)
            rows.append(identities)
        answers[name][title] = {"identities": rows, "milliseconds": 1000 * seconds / max(1, len(frames))}
json.dump(answers, sys.stdout)
"""


def ours(found: Sequence[Prediction]) -> tuple[list[Prediction], float]:
    """Numbered detections, and milliseconds of processor time a frame."""
    tracker = Tracker(Tracking())
    started = time.process_time()
    numbered = [tracker.update(frame, frame.scores > CONF) for frame in found]
    return numbered, 1000 * (time.process_time() - started) / len(found)


def peers(python: str, sequences: dict[str, tuple[Scene, list[Prediction]]]) -> dict[str, Any]:
    """What another Python's trackers make of the boxes."""
    boxes = {
        title: [{"boxes": f.boxes.tolist(), "scores": f.scores.tolist(), "classes": f.classes.tolist()} for f in frames]
        for title, (_, frames) in sequences.items()
    }
    done = subprocess.run(
        [python, "-c", PEER, str(CONF)], input=json.dumps(boxes), capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


def generator() -> ModuleType:
    """The program that draws the shapes."""
    place = Path(__file__).resolve().parents[1] / "examples" / "shapes" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def drawn_film(draw: ModuleType, count: int, seed: int, side: int = 352) -> tuple[Scene, list[np.ndarray[Any, Any]]]:
    """Textured shapes that bounce about, later ones over earlier ones: truths and pictures [side, side, 3]."""
    rng = np.random.default_rng(seed)
    ground = draw._ground(rng, side, side)  # noqa: SLF001
    shapes = []
    for _ in range(9):
        class_id = int(rng.integers(len(draw.CLASSES)))
        radius = float(rng.uniform(18, 36))
        corners = tuple(draw.CLASSES.values())[class_id](rng) * radius
        colour = draw._colour_unlike(rng, ground.mean(axis=(0, 1)), draw.LEAST_CONTRAST)  # noqa: SLF001
        size = int(2 * radius) + 6
        paint = draw._painted(rng, colour, size, size, rng.uniform(5, 40))  # noqa: SLF001
        start, angle, speed = rng.uniform(40, side - 40, 2), rng.uniform(0, 2 * np.pi), rng.uniform(1.5, 4)
        shapes.append((class_id, corners, paint, start, np.array([np.cos(angle), np.sin(angle)]) * speed, radius))
    scene, pictures = Scene("drawn shapes"), []
    for number in range(count):
        picture = ground.copy()
        covers = []
        for _, corners, paint, start, step, radius in shapes:
            reach, span = start + step * number, side - 2 * radius
            at = radius + span - np.abs((reach - radius) % (2 * span) - span)
            fine = np.zeros((side * 2, side * 2), np.uint8)
            cv2.fillPoly(fine, [np.rint((corners + at) * 2).astype(np.int32)], 1)
            cover = cv2.resize(fine.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
            half = paint.shape[0] // 2
            left, top = (round(float(v)) - half for v in at)
            x1, y1 = max(0, left), max(0, top)
            x2, y2 = min(side, left + paint.shape[1]), min(side, top + paint.shape[0])
            share = cover[y1:y2, x1:x2, None]
            part = picture[y1:y2, x1:x2]
            part += share * (paint[y1 - top : y2 - top, x1 - left : x2 - left] - part)
            covers.append(cover > 0.5)
        rows = []
        hidden = np.zeros((side, side), np.bool_)
        for identity in range(len(shapes), 0, -1):
            whole = covers[identity - 1]
            visible = whole & ~hidden
            hidden |= whole
            if visible.sum() >= max(40, 0.15 * whole.sum()):
                mask = Mask(0, 0, visible).trimmed()
                height, width = mask.bitmap.shape
                rows.append(
                    ((mask.x, mask.y, mask.x + width, mask.y + height), shapes[identity - 1][0], mask, identity)
                )
        truth = prediction(
            [r[0] for r in rows], [1.0] * len(rows), [r[1] for r in rows], [r[2] for r in rows], [r[3] for r in rows]
        )
        scene.frames.append(replace(truth, height=side, width=side, names=tuple(draw.CLASSES)))
        noise = rng.normal(0, 4, picture.shape)
        pictures.append(np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8))
    return scene, pictures


def network_detections(project: Path, weights: Path, pictures: Sequence[np.ndarray[Any, Any]]) -> list[Prediction]:
    """What a project's network finds, at the scale that it was trained at, down to the tracker's least score."""
    from segc.inference.filters import Filters
    from segc.inference.predict import predict_image
    from segc.sessions.choose import weights_session
    from segc.spec.load import load_project

    with TemporaryDirectory() as folder:
        loaded = load_project(project, ("hyperparameters.imgsz=320",))
        session = weights_session(loaded, Path(folder), weights, runtime="auto", warn=lambda _: None)
        filters = Filters(Tracking().low)
        return [predict_image(p, session.run, session.metadata, filters) for p in pictures]


def row(kept: Kept, milliseconds: float) -> dict[str, float]:
    """Figures of one tracker on one sequence."""
    figures = {name: round(float(value), 4) for name, value in asdict(kept).items()}
    return {**figures, "milliseconds": round(milliseconds, 2)}


def main() -> None:
    """Read the command line, follow, print a table."""
    parser = argparse.ArgumentParser(description="Tracking: IDF1 and HOTA on sequences with known identities.")
    parser.add_argument("--peer", metavar="PYTHON", help="a Python that has the package trackers")
    parser.add_argument("--project", type=Path, help="project.yaml of examples/shapes")
    parser.add_argument("--weights", type=Path, help="its trained weights")
    parser.add_argument("--json", type=Path, help="write the figures too")
    options = parser.parse_args()
    sequences: dict[str, tuple[Scene, list[Prediction]]] = {}
    for make in SCENES:
        scene = make()
        perfect = [replace(frame, identities=None) for frame in scene.frames]
        sequences[f"{scene.name}, perfect"] = scene, perfect
        sequences[f"{scene.name}, poor"] = scene, poor_detections(scene)
    if options.project and options.weights:
        draw = generator()
        for seed in range(3):
            scene, pictures = drawn_film(draw, 120, seed)
            found = network_detections(options.project, options.weights, pictures)
            sequences[f"drawn shapes {seed}, network"] = scene, found
    table: dict[str, dict[str, dict[str, float]]] = {}
    for title, (scene, found) in sequences.items():
        numbered, milliseconds = ours(found)
        table[title] = {"segc": row(measure(scene.frames, numbered), milliseconds)}
    answers = peers(options.peer, sequences) if options.peer else {}
    version = answers.pop("version", None)
    for name, answer in answers.items():
        for title, (scene, found) in sequences.items():
            given = answer[title]["identities"]
            numbered = [
                replace(frame, identities=np.array(ids, np.int64)) for frame, ids in zip(found, given, strict=True)
            ]
            table[title][name] = row(measure(scene.frames, numbered), answer[title]["milliseconds"])
    for title, rows in table.items():
        print(title)
        for name, figures in rows.items():
            print(f"  {name:20}", "  ".join(f"{key} {value:g}" for key, value in figures.items()))
    if options.json:
        about = {"machine": platform.platform(), "python": platform.python_version(), "trackers": version, "conf": CONF}
        options.json.write_text(json.dumps({"about": about, "sequences": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()

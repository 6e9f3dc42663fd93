"""``--show``: what a window gets, how a person ends it, and where there can be none."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from segc import cli
from segc.inference import show
from segc.inference.show import ShowError, Window, windows_problem
from tests.inference.stand_in import Bright
from tests.inference.videos import write_video

HAS_WINDOWS = "NONE" not in next(line for line in cv2.getBuildInformation().splitlines() if "GUI:" in line)


@pytest.fixture
def predict(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("segc.sessions.artifact.open_artifact", lambda *_, **__: Bright())
    return lambda *arguments: cli.run(["predict", *arguments, "--artifact", "model.onnx", "-o", "out", "--show"])


class Screen:
    """In the place of OpenCV's windows: remembers what is shown, and has a person press a key at a picture."""

    def __init__(self, monkeypatch, key=-1, at=10**6, closed_at=10**6):
        self.shown, self.gone, self.key, self.at, self.closed_at = [], 0, key, at, closed_at
        monkeypatch.setattr(show, "windows_problem", lambda: None)
        for name in ("namedWindow", "resizeWindow", "imshow", "waitKey", "getWindowProperty", "destroyWindow"):
            monkeypatch.setattr(cv2, name, getattr(self, name.lower()), raising=False)

    def namedwindow(self, title, flags):  # noqa: ARG002
        assert title.isascii()

    def resizewindow(self, title, width, height):  # noqa: ARG002
        assert 0 < width <= 1280
        assert 0 < height <= 800

    def imshow(self, title, picture):  # noqa: ARG002
        self.shown.append(picture.copy())

    def waitkey(self, milliseconds):
        assert milliseconds > 0  # or Ctrl-C would not be heard
        return self.key if len(self.shown) >= self.at else -1

    def getwindowproperty(self, title, what):  # noqa: ARG002
        return float(len(self.shown) < self.closed_at)

    def destroywindow(self, title):  # noqa: ARG002
        self.gone += 1


def test_every_annotated_frame_of_a_video_is_shown(tmp_path, predict, monkeypatch):
    write_video(tmp_path / "clip.mp4")
    screen = Screen(monkeypatch)
    assert predict("clip.mp4", "--save", "jsonl", "--no-overlay") == 0
    assert len(screen.shown) == len(Path("out/predictions.jsonl").read_text().splitlines()) == 12
    assert screen.gone == 1
    frames = cv2.VideoCapture("clip.mp4")
    assert not np.array_equal(screen.shown[0], frames.read()[1])
    assert not list(Path("out").glob("*.mp4"))


@pytest.mark.parametrize("way", [{"key": ord("q"), "at": 3}, {"key": 27, "at": 3}, {"closed_at": 3}])
def test_a_person_ends_it_and_what_was_predicted_is_written_whole(tmp_path, predict, monkeypatch, capsys, way):
    write_video(tmp_path / "clip.mp4")
    screen = Screen(monkeypatch, **way)
    assert predict("clip.mp4", "--save", "json") == 0
    assert len(screen.shown) == 3
    assert len(json.loads(Path("out/predictions.json").read_text())) == 3
    frames = cv2.VideoCapture(str(next(Path("out").glob("clip.*"))))
    assert sum(frames.read()[0] for _ in range(9)) == 3
    assert "ended in the window" in capsys.readouterr().out
    assert screen.gone == 1


def test_a_photograph_stays_until_a_key_is_pressed(tmp_path, predict, monkeypatch):
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((60, 80, 3), (0, 0, 255), np.uint8))
    screen = Screen(monkeypatch, key=ord(" "), at=0)
    waits = []

    def wait(milliseconds):
        waits.append(milliseconds)
        return -1 if len(waits) % 3 else ord(" ")

    monkeypatch.setattr(cv2, "waitKey", wait, raising=False)
    assert predict("0.png", "1.png") == 0
    assert len(screen.shown) == 2
    assert len(waits) >= 6


@pytest.mark.skipif(HAS_WINDOWS, reason="this OpenCV has windows")
def test_an_opencv_without_windows_is_told_with_the_package_that_has_them(tmp_path, predict, capsys):
    write_video(tmp_path / "clip.mp4", 2)
    assert predict("clip.mp4") == 1
    said = capsys.readouterr().err
    assert "I009" in said
    assert "opencv-python" in said
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("display", "said"),
    [
        (None, "neither DISPLAY nor WAYLAND_DISPLAY"),
        pytest.param(
            ":98765",
            "display :98765 does not answer",
            marks=pytest.mark.skipif(show.ctypes.util.find_library("X11") is None, reason="libX11 is not installed"),
        ),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="displays of other systems are always there")
def test_where_there_is_no_display_that_is_told(monkeypatch, display, said):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:   QT5\n")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    if display:
        monkeypatch.setenv("DISPLAY", display)
    with pytest.raises(ShowError, match=said):
        Window("clip")


@pytest.mark.skipif(not HAS_WINDOWS, reason="this OpenCV is built without windows: pip install opencv-python")
@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="Xvfb is not installed")
def test_a_window_opens_on_a_display(tmp_path):
    display = f":{os.getpid() % 10_000 + 100}"
    server = subprocess.Popen(["Xvfb", display, "-screen", "0", "800x600x24"], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            if Path(f"/tmp/.X11-unix/X{display[1:]}").exists():
                break
            time.sleep(0.1)
        code = (
            "import numpy as np, threading\n"
            "from segc.inference.show import Window\n"
            "stop = threading.Event()\n"
            "with Window('clip') as window:\n"
            "    assert all(window.show(np.full((2000, 3000, 3), n, np.uint8), stop, waits=False) for n in range(5))\n"
            "    stop.set()\n"
            "    assert window.show(np.zeros((9, 9, 3), np.uint8), stop, waits=True)\n"
        )
        environment = {**os.environ, "DISPLAY": display}
        environment.pop("WAYLAND_DISPLAY", None)
        subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path, timeout=60)
    finally:
        server.terminate()
        server.wait()


def test_what_hinders_windows_is_one_text_or_nothing():
    problem = windows_problem()
    assert problem is None or len(problem.splitlines()) == 1

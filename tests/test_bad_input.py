"""Bad input of every kind ends in one clear message: no traceback, nothing executed, nothing half-written."""

import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

SPEC = """\
version: 1
name: bad
architecture: {family: yolov8-seg, scale: {depth: 0.1, width: 0.1, max_channels: 64}}
dataset: {path: data, train: images/train, val: images/val, names: [cat, dog]}
hyperparameters: {imgsz: 64, epochs: 1, batch: 2, workers: 0, device: cpu}
targets: [{format: onnx}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound project with two images a split, to be spoiled by the test."""
    (tmp_path / "project.yaml").write_text(SPEC)
    for split in ("train", "val"):
        images, labels = (tmp_path / "data" / kind / split for kind in ("images", "labels"))
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for index in range(2):
            picture = np.full((48, 64, 3), 40 + 90 * index, np.uint8)
            picture[10:30, 20:50] = 220
            cv2.imwrite(str(images / f"{index}.png"), picture)
            (labels / f"{index}.txt").write_text("1 0.3 0.2 0.8 0.2 0.8 0.6 0.3 0.6\n")
    return tmp_path


def segc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "segc", *arguments]
    return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=300)


def edit_spec(folder: Path, old: str, new: str) -> None:
    spec = folder / "project.yaml"
    assert old in spec.read_text()
    spec.write_text(spec.read_text().replace(old, new))


class Malicious:
    """Unpickled carelessly, it leaves a file behind."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, ("touch executed",)


def malicious_checkpoint(folder: Path) -> None:
    with zipfile.ZipFile(folder / "bad.pt", "w") as archive:
        archive.writestr("bad/data.pkl", pickle.dumps({"model": Malicious()}, protocol=2))
        archive.writestr("bad/version", "3\n")


def truncated_checkpoint(folder: Path) -> None:
    whole = folder / "whole.pt"
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("whole/data.pkl", pickle.dumps({"model": {}}, protocol=2))
    (folder / "bad.pt").write_bytes(whole.read_bytes()[:-30])


def first_image(folder: Path) -> Path:
    return folder / "data" / "images" / "train" / "0.png"


def first_label(folder: Path) -> Path:
    return folder / "data" / "labels" / "train" / "0.txt"


def nothing(_: Path) -> None:
    """The project stays sound; the command line is what is wrong."""


def use_missing_weights(folder: Path) -> None:
    edit_spec(folder, "max_channels: 64}}", "max_channels: 64}, weights: nowhere.safetensors}")


def remove_images(folder: Path) -> None:
    for image in (folder / "data" / "images" / "train").iterdir():
        image.unlink()


CASES: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "a missing project": (lambda f: (f / "project.yaml").unlink(), ["validate"], "project.yaml"),
    "a folder for a project": (nothing, ["validate", "data"], "data"),
    "a binary project": (lambda f: (f / "project.yaml").write_bytes(bytes(range(256))), ["build"], "project.yaml"),
    "an empty project": (lambda f: (f / "project.yaml").write_bytes(b""), ["train"], "Y006"),
    "a key that does not exist": (lambda f: edit_spec(f, "epochs", "epoch"), ["train"], "project.yaml:5:30"),
    "an image that is none": (lambda f: first_image(f).write_bytes(b"no image"), ["train"], "0.png"),
    "a truncated image": (lambda f: first_image(f).write_bytes(first_image(f).read_bytes()[:40]), ["train"], "0.png"),
    "an image of no bytes": (lambda f: first_image(f).write_bytes(b""), ["train"], "0.png"),
    "a split without images": (remove_images, ["train"], "no images found"),
    "a missing split": (lambda f: shutil.rmtree(f / "data" / "images" / "val"), ["train"], "images/val"),
    "a class out of range": (lambda f: first_label(f).write_text("2 0.1 0.1 0.2 0.1 0.2 0.2\n"), ["train"], "0.txt:1"),
    "a label that is no number": (lambda f: first_label(f).write_text("1 a b c d\n"), ["train"], "0.txt:1"),
    "starting weights that are not there": (use_missing_weights, ["train"], "nowhere.safetensors"),
    "a resume of nothing": (nothing, ["train", "--resume"], "resume"),
    "validation without weights": (nothing, ["val"], "no trained weights"),
    "emission without weights": (nothing, ["emit"], "--untrained"),
    "an unknown target": (nothing, ["emit", "--target", "onxx"], "onnx"),
    "prediction without weights": (nothing, ["predict", "data/images/val"], "no trained weights"),
    "a photograph that is not there": (nothing, ["predict", "nowhere.jpg"], "nowhere.jpg"),
    "weights that are no weights": (
        lambda f: (f / "w.safetensors").write_bytes(b"nothing of the kind"),
        ["val", "--weights", "w.safetensors"],
        "w.safetensors",
    ),
    "an artifact that is none": (
        lambda f: (f / "m.onnx").write_bytes(b"nothing of the kind"),
        ["predict", "data/images/val", "--artifact", "m.onnx"],
        "m.onnx",
    ),
    "a truncated checkpoint": (truncated_checkpoint, ["weights", "import", "bad.pt"], "bad.pt"),
    "a folder for a checkpoint": (nothing, ["weights", "import", "data"], "data"),
    "a malicious checkpoint": (malicious_checkpoint, ["weights", "import", "bad.pt"], "system"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_ends_in_one_clear_message(case: str, folder: Path) -> None:
    spoil, arguments, shown = CASES[case]
    spoil(folder)
    done = segc(folder, *arguments)
    printed = done.stdout + done.stderr
    assert done.returncode == 1, printed
    assert shown in printed
    assert "error[" in printed
    assert "Traceback" not in printed
    assert not (folder / "executed").exists()
    assert not list(folder.rglob("*.partial"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 40 kB; only root can mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(disk)], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("command", [["build"], ["train"], ["emit", "--untrained"]])
def test_a_full_disk_is_said_and_leaves_nothing_half_written(
    folder: Path, small_disk: Path, command: list[str]
) -> None:
    done = segc(folder, *command, "--build-dir", str(small_disk / "build"))
    printed = done.stdout + done.stderr
    assert done.returncode == 1, printed
    assert "no space is left on the disk" in printed
    assert "Traceback" not in printed
    assert not list(small_disk.rglob("*.partial"))
    assert not list(small_disk.rglob("artifacts/*"))

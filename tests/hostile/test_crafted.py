"""Inputs that once got through, each as a user would meet it: one clear error, and soon."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.crafted import PNG_OF_4_GB, PROJECT, ROWS, Row, try_row
from segc.cli import run
from segc.diagnostics import SegcError
from segc.files import atomic_directory, atomic_path, canonical_json, digest, sweep, write_atomic
from segc.locks import TemporaryFolder
from segc.spec.load import MOST_FAULTS, check_text


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_made_by_hand_gives_what_must_be_said_of_it(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    assert try_row(row, tmp_path) in {"accepted", "refused"}
    assert capfd.readouterr() == ("", "")


def test_what_is_said_otherwise_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="'nothing' where 'an error' is to be said"):
        try_row(Row("x", lambda _: None, lambda _: "nothing", "an error"), tmp_path)
    with pytest.raises(AssertionError, match="control characters"):
        try_row(Row("x", lambda _: None, lambda _: "an error\x1b", "an error"), tmp_path)


def test_a_picture_that_asks_for_four_gigabytes_stops_neither_prediction_nor_training(tmp_path: Path) -> None:
    from segc.data.samples import read_image
    from segc.inference.sources import ImageError, find_sources

    path = tmp_path / "small.png"
    path.write_bytes(PNG_OF_4_GB)
    with pytest.raises(ImageError, match="a chunk IDAT of 4294963273 bytes"):
        find_sources([str(path)])[0].read()
    with pytest.raises(SegcError, match="a chunk IDAT of 4294963273 bytes"):
        read_image(path)


def test_of_thousands_of_faults_the_first_are_told_and_the_others_counted() -> None:
    _, diagnostics = check_text("a: b\n" * 2000, Path("/nowhere/project.yaml"))
    assert len(diagnostics) == MOST_FAULTS + 1
    rest, _, words = diagnostics[-1].message.partition(" ")
    assert int(rest) >= 2000 - 1 - MOST_FAULTS
    assert words == "more faults like these"


def test_of_a_label_file_of_junk_the_first_faults_are_kept(tmp_path: Path) -> None:
    from segc.data import labels

    path = tmp_path / "a.txt"
    path.write_text("junk\n" * 5000)
    instances, found = labels.read_labels(path, 1)
    assert not instances
    assert len(found) == labels.MOST_FAULTS + 1
    assert f"the {5000 - labels.MOST_FAULTS} rows from here on" in found[-1].message
    os.truncate(path, labels.LARGEST_FILE + 1)
    _, (fault,) = labels.read_labels(path, 1)
    assert "larger than 16 MiB" in fault.message


# Names


def test_a_name_that_is_no_utf_8_is_written_so_that_it_can_be_read_again(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.jpg")
    write_atomic(tmp_path / "a.json", canonical_json({"file": name}))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"file": name}
    assert digest(name).startswith("sha256:")


def test_a_training_is_known_by_names_that_are_no_utf_8(tmp_path: Path) -> None:
    from segc.data.samples import Sample
    from segc.spec.load import load_project
    from segc.training.identity import identity

    (tmp_path / "project.yaml").write_text(PROJECT)
    loaded = load_project(tmp_path / "project.yaml")
    found = [
        identity(loaded, loaded.project.hyperparameters, [Sample(Path(name), None, ())], [])
        for name in ("caf\udce9.png", "caf\udcea.png")
    ]
    assert found[0]["images of dataset.train"] != found[1]["images of dataset.train"]


def test_names_of_files_and_classes_begin_no_line_of_their_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a\x1b[31m\nerror: all is lost.jpg"
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    shutil.move(tmp_path / "a.png", path)
    path.write_bytes(path.read_bytes()[:20])
    project = tmp_path / "project.yaml"
    project.write_text(PROJECT.replace("thing", r'"a\tb"'))
    assert run(["validate", "--data", str(project)]) == 1
    assert run(["predict", str(path), "--project", str(project)]) == 1
    told = "".join(capfd.readouterr())
    assert "\x1b" not in told
    assert "\nerror: all is lost" not in told


def test_a_name_that_no_file_can_have_is_one_that_is_not_there(tmp_path: Path) -> None:
    from segc.data.dataset import read_split
    from segc.spec.load import load_project

    (tmp_path / "images").mkdir()
    (tmp_path / "images.txt").write_text("a" * 5000)
    coco = {
        "images": [{"id": 1, "file_name": "a" * 5000, "width": 8, "height": 8}],
        "annotations": [],
        "categories": [],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    project = tmp_path / "project.yaml"
    for dataset in (
        "train: images, val: images, names: [thing], format: coco, annotations: {train: coco.json, val: coco.json}",
        "train: images.txt, val: images.txt, names: [thing]",
    ):
        project.write_text(PROJECT.replace("train: images, val: images, names: [thing]", dataset))
        with pytest.raises(SegcError) as caught:
            read_split(load_project(project), "train")
        assert [one.code for one in caught.value.diagnostics] == ["D007"]


def test_brackets_and_control_characters_in_names_of_artifacts_are_shown_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from segc.commands.common import console
    from segc.commands.emit import _report
    from segc.emission.order import Emission

    console(stderr=False).print("[/red]\x1b[31m\n")
    assert capsys.readouterr().out == "[/red]\\x1b[31m\\n\n"
    _report([Emission("[/red]", "onnx", "verified", folder=tmp_path / "\x1b[31m", model="[/m]", notes=("a\nb",))])
    said = capsys.readouterr().out
    assert "[/red]" in said
    assert "[/m]" in said
    assert "\x1b" not in said
    assert "a\\nb" in said


# The machine


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")
def test_a_library_that_the_memory_has_no_room_for_is_one_line(tmp_path: Path) -> None:
    code = (
        "import resource, sys\nfrom segc.cli import run\n"
        "resource.setrlimit(resource.RLIMIT_AS, (200 << 20, 200 << 20))\nsys.exit(run(['predict', 'a.jpg']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("error[F007]: the package cv2 cannot be loaded: ")
    assert "more memory" in second


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")
@pytest.mark.parametrize(
    ("ends", "status", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", 1, "error[F008]: a library ended with SIGSEGV, where 1024 MB"),
        ("exec('raise RuntimeError(1)')", 1, "error[F008]: a library failed (1), where 1024 MB"),
        ("os.kill(os.getppid(), signal.SIGTERM) or signal.pause()", 143, "interrupted\n"),
        ("7", 7, ""),
    ],
)
def test_where_addresses_are_few_a_crash_of_a_library_is_told_and_all_else_as_ever(
    ends: str, status: int, said: str, tmp_path: Path
) -> None:
    code = (
        "import os, resource, signal, sys, time\nfrom segc import cli\n"
        f"cli.root.main = lambda *_, **__: {ends}\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr.startswith(said)
    assert done.returncode == status


def test_what_a_killed_process_left_in_the_temporary_folder_goes_before_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "import os, sys; from segc.locks import TemporaryFolder as F; print(F('test').path); os._exit(9)"
    made = [sys.executable, "-c", code]
    left = subprocess.run(
        made, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert list(tmp_path.iterdir()) == [Path(left.stdout.strip())]
    (tmp_path / "segc-mine").mkdir()
    with TemporaryFolder("one") as one, TemporaryFolder("two") as two:
        assert {path.name for path in tmp_path.iterdir()} == {"segc-mine", one.name, two.name}
    assert [path.name for path in tmp_path.iterdir()] == ["segc-mine"]


def test_a_sweep_puts_back_what_was_taken_out_of_its_place_and_removes_the_rest(tmp_path: Path) -> None:
    for name in (".a.xyz.retired", ".b.xyz.retired", ".b.xyz.partial", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "of").write_text(name)
    (tmp_path / ".c.txt.xyz.partial").touch()
    sweep(tmp_path)
    assert {path.name: (path / "of").read_text() for path in tmp_path.iterdir()} == {
        "a": ".a.xyz.retired",
        "b": "b",
        "c": "c",
    }


def test_a_full_disk_is_named_by_what_was_being_written(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    for writing in (atomic_path, atomic_directory):
        with pytest.raises(OSError, match="No space") as caught, writing(tmp_path / "x"):
            raise OSError(*full.args, "a file that was being copied")
        assert caught.value.filename == str(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
    folder = TemporaryFolder("full")
    with pytest.raises(OSError, match="No space") as caught, folder:
        raise full
    assert caught.value.filename == str(folder.path)


def test_a_full_temporary_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from segc import cli

    monkeypatch.setattr(cli.tempfile, "gettempdir", lambda: str(tmp_path))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        cli.shutil, "disk_usage", lambda path: usage._replace(free=0 if path == str(tmp_path) else 1 << 40)
    )

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cli.root, "main", full)
    assert run(["build"]) == 1
    assert f"no space is left on the disk: {tmp_path}" in capsys.readouterr().err


def test_arrays_for_a_worker_that_find_no_room_are_an_error_of_the_system(tmp_path: Path) -> None:
    from segc.arrays import save_arrays

    with pytest.raises(OSError, match="nowhere") as caught:
        save_arrays(tmp_path / "nowhere" / "x", {"a": np.zeros(1, np.float32)})
    assert caught.value.errno == errno.ENOENT

"""Weights by name in the spec and on the command line: fetched at first use, held fast, and nothing else."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segc.cli import run as segc
from segc.diagnostics import SegcError
from segc.spec.load import load_project
from segc.weights.lineage import LOCK
from segc.weights.starting import starting_file, weights_file

from .conftest import Site

MIRRORED = "/mirror/yolov8n-seg.pt"


@pytest.fixture
def mirror(site: Site, peer: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The recorded checkpoint under its published name."""
    site.put(MIRRORED, (peer / "overfit32_last.pt").read_bytes())
    monkeypatch.setenv("SEGC_WEIGHTS_URL", f"{site.address}/mirror")
    return site


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, with a dataset of two classes."""
    folder = tmp_path / "work"
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "labels"):
            (folder / "data" / kind / split).mkdir(parents=True)
        for index in range(count):
            image = generator.integers(0, 255, (64, 64, 3), np.uint8)
            cv2.imwrite(str(folder / "data" / "images" / split / f"{index}.png"), image)
            label = folder / "data" / "labels" / split / f"{index}.txt"
            label.write_text(f"{index % 2} 0.2 0.2 0.8 0.2 0.8 0.8 0.2 0.8\n")
    monkeypatch.chdir(folder)
    return folder


def ran(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    """What a command says, on either stream."""
    got = segc(list(arguments))
    captured = capsys.readouterr()
    assert got == status, captured
    return captured.out + captured.err


SETTINGS = (
    *("--set", "hyperparameters.imgsz=64", "--set", "hyperparameters.epochs=1", "--set", "hyperparameters.batch=2"),
    *(
        "--set",
        "hyperparameters.workers=0",
        "--set",
        "hyperparameters.device=cpu",
        "--set",
        "dataset.names=[person, dot]",
    ),
)


def begun(mirror: Site, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A project of a name alone, as far as its first training."""
    ran(capsys, "init", "--weights", "yolov8n-seg")
    state = "yolov8n-seg (AGPL-3.0), not in the cache, to be fetched at first use"
    assert state in ran(capsys, "validate", *SETTINGS)
    assert state in ran(capsys, "build", *SETTINGS)
    assert mirror.asked == []
    shown = ran(capsys, "train", *SETTINGS)
    assert "fetching yolov8n-seg" in shown
    assert "tensors taken: backbone 162 of 162, neck 108 of 108" in shown
    assert "weights descend from yolov8n-seg (AGPL-3.0)" in shown
    assert trained(here).exists()


def trained(here: Path) -> Path:
    """The best weights of the only training."""
    (path,) = (here / "build" / "runs").glob("*/weights/best.safetensors")
    return path


def test_from_nothing_but_a_name_to_predictions(mirror: Site, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun(mirror, here, capsys)
    assert "yolov8n-seg (AGPL-3.0), in the cache" in ran(capsys, "validate", *SETTINGS)
    page = next((here / "build" / "runs").glob("*/report.html")).read_text()
    descent = "weights descend from yolov8n-seg (AGPL-3.0), by one training: work"
    assert descent in page
    shown = ran(capsys, "emit", *SETTINGS)
    assert descent in shown
    assert "verified" in shown
    ran(capsys, "predict", "data/images/val", *SETTINGS)
    assert len(mirror.asked) == 1
    lock = json.loads((here / "build" / LOCK).read_text())["weights"]
    chain = json.loads(ran(capsys, "weights", "licence", "build/artifacts/onnx", "--json"))
    assert chain["licences"] == ["AGPL-3.0"]
    assert chain["lineage"][0]["sha256"] == lock["sha256"] == lock["lineage"][0]["sha256"]


@pytest.mark.slow
def test_two_trainings_and_an_emission_make_a_chain_that_can_be_refused(
    mirror: Site, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(mirror, here, capsys)
    shutil.copy(trained(here), here / "first.safetensors")
    again = ("--set", "architecture.weights=first.safetensors", "--set", "name=second", "--build-dir", "again")
    ran(capsys, "train", *SETTINGS, *again)
    ran(capsys, "emit", *SETTINGS, *again)
    chain = json.loads(ran(capsys, "weights", "licence", "again/artifacts/onnx", "--json"))
    assert [(link["kind"], link["name"]) for link in chain["lineage"]] == [
        ("weights", "yolov8n-seg"),
        ("training", "work"),
        ("training", "second"),
    ]
    assert chain["lineage"][0]["licence"] == "AGPL-3.0 (https://ultralytics.com/license)"
    assert chain["lineage"][0]["published"] == "AGPL-3.0"
    assert chain["licences"] == ["AGPL-3.0"]
    strict = ("--set", "architecture.licences=[Apache-2.0, MIT]")
    for command in (["train"], ["emit", "--force"], ["predict", "data/images/val"], ["build"]):
        told = ran(capsys, *command, *SETTINGS, *again, *strict, status=1)
        assert "error[W012]" in told
        assert "yolov8n-seg (AGPL-3.0)" in told


def spec(folder: Path, weights: str = "yolov8n-seg", more: str = "") -> Path:
    path = folder / "project.yaml"
    path.write_text(
        f"version: 1\nname: x\narchitecture: {{family: yolov8-seg, scale: n, weights: {weights}{more}}}\n"
        "dataset: {path: data, train: images/train, val: images/val, names: [person, dot]}\n"
    )
    return path


def test_predict_and_val_use_a_name_in_place_of_a_file(
    mirror: Site, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = spec(here)
    names = {index: f"class {index}" for index in range(80)}
    shown = ran(
        *(capsys, "predict", "data/images/val", "--weights", "yolov8n-seg.pt"),
        *("--set", f"dataset.names={names}", "--set", "hyperparameters.imgsz=64", "--project", str(path)),
    )
    assert "fetched yolov8n-seg" in shown
    assert [asked for asked, _ in mirror.asked] == [MIRRORED]


def test_what_was_fetched_first_is_held_fast_in_the_lock(mirror: Site, here: Path) -> None:
    loaded = load_project(spec(here))
    path = starting_file(loaded, loaded.build_dir)
    assert path is not None
    fixed = json.loads((loaded.build_dir / LOCK).read_text())["weights"]["sha256"]
    shutil.rmtree(path.parent)
    mirror.put(MIRRORED, b"something else", '"2"')
    with pytest.raises(SegcError) as caught:
        starting_file(loaded, loaded.build_dir)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "N003"
    assert fixed in diagnostic.message
    assert LOCK in diagnostic.message
    assert "architecture.weights: {source: yolov8n-seg, sha256:" in (diagnostic.help or "")
    assert not list(path.parent.glob("*.pt*"))
    # A build on a machine with an empty cache keeps what the lock says.
    from segc.build import build

    build(loaded, loaded.build_dir)
    assert json.loads((loaded.build_dir / LOCK).read_text())["weights"]["sha256"] == fixed
    # What the advice says helps.
    import hashlib

    digest = hashlib.sha256(b"something else").hexdigest()
    stated = load_project(spec(here, f"{{source: yolov8n-seg, sha256: {digest}}}"))
    assert starting_file(stated, stated.build_dir) == path


def test_a_file_of_the_name_is_taken_before_the_published_one(
    mirror: Site, here: Path, peer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "yolov8n-seg.pt").write_bytes((peer / "overfit32_last.pt").read_bytes())
    loaded = load_project(spec(here, "yolov8n-seg.pt"))
    assert starting_file(loaded, loaded.build_dir) == here / "yolov8n-seg.pt"
    assert weights_file("yolov8n-seg.pt") == Path("yolov8n-seg.pt")
    assert mirror.asked == []
    assert "weights: yolov8n-seg.pt, a file" in ran(capsys, "validate")
    (here / "yolov8n-seg.pt").unlink()
    assert starting_file(loaded, loaded.build_dir) != here / "yolov8n-seg.pt"


def test_published_weights_that_cannot_be_started_from_are_not_fetched(mirror: Site, here: Path) -> None:
    for weights, more, code in (("yolov8s-seg.pt", "", "X217"), ("yolov8n-seg.pt", ", licences: [MIT]", "X218")):
        loaded = load_project(spec(here, weights, more))
        with pytest.raises(SegcError) as caught:
            starting_file(loaded, loaded.build_dir)
        assert caught.value.diagnostics[0].code == code
    assert mirror.asked == []


def test_the_cache_is_listed_verified_shown_and_pruned(
    mirror: Site, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "the cache holds no weights" in ran(capsys, "weights", "verify")
    other = mirror.put("/other.pt", b"x" * 1000)
    file = Path(ran(capsys, "weights", "fetch", "yolov8n-seg").splitlines()[0])
    told = json.loads(ran(capsys, "weights", "fetch", other, "--json").partition("fetching")[0])
    assert Path(told[0]["file"]).read_bytes() == b"x" * 1000
    listed = json.loads(ran(capsys, "weights", "list", "--json"))
    assert {row["name"]: row["cached"] for row in listed["published"]}["yolov8n-seg"] is True
    assert [entry["address"] for entry in listed["others"]] == [other]
    text = ran(capsys, "weights", "list")
    assert "yolov8n-seg  yolov8-seg  n      7.1  AGPL-3.0  36.7    30.5     yes" in text
    assert f"cached: {other}" in text
    assert ran(capsys, "weights", "verify").count("sound: ") == 2
    shown = ran(capsys, "weights", "show", "yolov8n-seg")
    assert "mask_ap: 30.5" in shown
    assert "417 tensors" in shown
    assert "1  weights yolov8n-seg, sha256:" in ran(capsys, "weights", "licence", "yolov8n-seg")

    file.write_bytes(b"y" + file.read_bytes()[1:])
    assert "damaged: https://github.com/" in ran(capsys, "weights", "verify", status=1)
    assert "removed: yolov8n-seg.pt" in ran(capsys, "weights", "prune")
    assert not file.exists()
    assert "not in the cache: yolov8n-seg.pt" in ran(capsys, "weights", "verify", "yolov8n-seg", status=1)
    assert "not in the cache" in ran(capsys, "weights", "show", "yolov8n-seg")
    assert "error[W013]" in ran(capsys, "weights", "licence", "yolov8n-seg", status=1)
    (removed,) = json.loads(ran(capsys, "weights", "prune", "--all", "--json"))
    assert removed == {"file": "other.pt", "state": "removed", "freed": removed["freed"]}
    assert removed["freed"] > 1000
    assert [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_pruning_leaves_what_is_being_fetched_and_what_broke_off_goes(
    mirror: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    from segc.spec.weights import parse_reference
    from segc.weights.fetching import entry_of

    mirror.cuts[MIRRORED] = [1000, 1000, 1000, 1000]
    ran(capsys, "weights", "fetch", "yolov8n-seg", status=1)
    assert "broke off after 0.0 MB" in ran(capsys, "weights", "verify", status=1)
    entry = entry_of(parse_reference("yolov8n-seg"))
    with entry.lock(0):
        assert "left, a process is fetching it" in ran(capsys, "weights", "prune")
    assert entry.part.exists()
    ran(capsys, "weights", "prune")
    assert not entry.folder.exists()


@pytest.mark.usefixtures("cache")
def test_commands_that_fetch_refuse_what_is_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean" in ran(capsys, "weights", "fetch", "yolov8nseg", status=1)
    assert "is a file" in ran(capsys, "weights", "fetch", "./yolov8n-seg.pt", status=1)
    assert "give names or addresses" in ran(capsys, "weights", "fetch", status=2)
    assert "give no names" in ran(capsys, "weights", "prune", "x", "--all", status=2)


def test_a_file_under_the_very_name_is_meant(here: Path) -> None:
    (here / "start").write_bytes(b"")
    assert weights_file("start") == Path("start")
    with pytest.raises(SegcError, match="X207"):
        weights_file("other")


@pytest.mark.usefixtures("cache")
def test_validation_and_builds_touch_no_network(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("the network was asked")

    for name in ("create_connection", "getaddrinfo", "socket"):
        monkeypatch.setattr(socket, name, forbidden)
    spec(here)
    assert segc(["validate"]) == 0
    assert segc(["build"]) == 0

"""What weights descend from, and which licences are allowed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segc.build import build, project_graph
from segc.commands.weights import command
from segc.diagnostics import SegcError
from segc.files import digest_file
from segc.network.initialise import initial_weights
from segc.spec.load import LoadedProject, load_project
from segc.weights import lineage
from segc.weights.importing import import_weights
from segc.weights.lineage import UNKNOWN, Link, from_json, line, to_json
from segc.weights.reading import lineage_of
from segc.weights.resolve import own_metadata, starting_weights, trained_weights
from segc.weights.store import save_weights

SPEC = """\
version: 1
name: {name}
architecture:
  family: yolov8-seg
  scale: n
{more}dataset: {{path: data, train: images/train, val: images/val, names: [circle, square]}}
hyperparameters: {{imgsz: 64}}
"""


def project(folder: Path, name: str = "shapes", **more: str) -> LoadedProject:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "project.yaml"
    path.write_text(SPEC.format(name=name, more="".join(f"  {key}: {value}\n" for key, value in more.items())))
    return load_project(path)


def weights_from(loaded: LoadedProject, path: Path, **metadata: str) -> Path:
    graph = project_graph(loaded.project)
    save_weights(path, initial_weights(graph.parameters, 1), metadata)
    return path


def trained_by(loaded: LoadedProject, path: Path) -> Path:
    """Weights as a run of the project would write them; the run's folder has the lock."""
    build(loaded, loaded.build_dir)
    run = loaded.build_dir / "runs" / "train"
    run.mkdir(parents=True, exist_ok=True)
    (run / lineage.LOCK).write_bytes((loaded.build_dir / lineage.LOCK).read_bytes())
    return weights_from(loaded, path, **own_metadata(loaded, project_graph(loaded.project), run))


def refused(loaded: LoadedProject) -> str:
    with pytest.raises(SegcError) as caught:
        starting_weights(loaded, project_graph(loaded.project))
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "W012"
    return diagnostic.message


def sha256(path: Path) -> str:
    return digest_file(path).removeprefix("sha256:")


def test_a_training_from_a_seed_descends_from_no_others(tmp_path: Path) -> None:
    path = trained_by(project(tmp_path), tmp_path / "w.safetensors")
    (link,) = lineage_of(path)
    assert (link.kind, link.name, link.sha256) == ("training", "shapes", sha256(path))
    assert line((link,)) == "weights were trained from scratch, by one training: shapes"
    assert lineage.licences((link,)) == []


def test_two_trainings_make_a_chain_with_the_digest_of_each_file(tmp_path: Path) -> None:
    start = weights_from(
        project(tmp_path / "0"), tmp_path / "start.safetensors", license="MIT (see NOTICE)", producer="x"
    )
    first = trained_by(project(tmp_path / "1", "one", weights="../start.safetensors"), tmp_path / "one.safetensors")
    second = trained_by(project(tmp_path / "2", "two", weights="../one.safetensors"), tmp_path / "two.safetensors")
    chain = lineage_of(second)
    assert [(link.kind, link.name, link.sha256) for link in chain] == [
        ("weights", "start.safetensors", sha256(start)),
        ("training", "one", sha256(first)),
        ("training", "two", sha256(second)),
    ]
    assert chain[0].licence == "MIT (see NOTICE)"
    assert line(chain) == "weights descend from start.safetensors (MIT), by 2 trainings: one, two"
    lock = json.loads((tmp_path / "2" / "build" / lineage.LOCK).read_text())
    assert lock["weights"]["sha256"] == sha256(first)
    assert from_json(lock["weights"]["lineage"]) == lineage_of(first) == chain[:2]


def test_a_resumed_run_keeps_what_its_lock_says_though_the_start_is_gone(tmp_path: Path) -> None:
    weights_from(project(tmp_path / "0"), tmp_path / "start.safetensors", license="MIT")
    loaded = project(tmp_path / "1", weights="../start.safetensors")
    trained_by(loaded, tmp_path / "one.safetensors")
    (tmp_path / "start.safetensors").unlink()
    run = loaded.build_dir / "runs" / "train"
    metadata = own_metadata(loaded, project_graph(loaded.project), run)
    assert [link.name for link in lineage.stated(dict(metadata))] == ["start.safetensors", "shapes"]


def test_a_run_whose_lock_says_nothing_descends_from_the_unknown(tmp_path: Path) -> None:
    weights_from(project(tmp_path / "0"), tmp_path / "start.safetensors")
    loaded = project(tmp_path / "1", weights="../start.safetensors")
    assert lineage.trained(loaded, tmp_path)[:-1] == UNKNOWN
    assert lineage.trained(project(tmp_path / "2"), tmp_path)[:-1] == ()


def test_importing_keeps_the_chain_and_the_digest_of_what_was_imported(tmp_path: Path, peer: Path) -> None:
    checkpoint = peer / "overfit32_last.pt"
    import_weights(checkpoint, tmp_path / "w.safetensors")
    (link,) = lineage_of(tmp_path / "w.safetensors")
    assert (link.name, link.sha256) == (checkpoint.name, sha256(checkpoint))
    assert link.licence == "AGPL-3.0 (https://ultralytics.com/license)"
    assert link.licences == "AGPL-3.0"


def test_licences_that_are_not_allowed_are_refused_however_far_back(tmp_path: Path) -> None:
    weights_from(project(tmp_path / "0"), tmp_path / "start.safetensors", license="GPL-3.0")
    trained_by(project(tmp_path / "1", "one", weights="../start.safetensors"), tmp_path / "one.safetensors")
    allowed = "[Apache-2.0, MIT]"
    message = refused(project(tmp_path / "2", weights="../one.safetensors", licences=allowed))
    assert "start.safetensors (GPL-3.0)" in message
    assert "allows Apache-2.0, MIT" in message
    loaded = project(tmp_path / "3", weights="../one.safetensors", licences="[gpl-3.0]")
    assert starting_weights(loaded, project_graph(loaded.project)) is not None


def test_what_says_no_licence_is_refused_where_licences_are_named(tmp_path: Path) -> None:
    weights_from(project(tmp_path / "0"), tmp_path / "start.safetensors")
    loaded = project(tmp_path / "1", weights="../start.safetensors", licences="[MIT]")
    assert "licence unknown" in refused(loaded)
    with pytest.raises(SegcError, match="W012"):
        build(loaded, loaded.build_dir)
    with pytest.raises(SegcError, match="W012"):
        trained_weights(loaded, loaded.build_dir, project_graph(loaded.project), tmp_path / "start.safetensors")
    assert not loaded.build_dir.exists()


def test_what_comes_from_a_seed_is_allowed_always(tmp_path: Path) -> None:
    loaded = project(tmp_path, licences="[MIT]")
    path = trained_by(loaded, tmp_path / "w.safetensors")
    assert trained_weights(loaded, loaded.build_dir, project_graph(loaded.project), path).warnings == ()


def test_both_what_the_file_says_and_what_was_published_must_be_allowed() -> None:
    link = Link("weights", "x", licence="MIT", published="AGPL-3.0")
    assert link.claims == ("MIT", "AGPL-3.0")
    assert link.licences == "MIT as the file says, AGPL-3.0 as published"
    assert lineage.licences((link, Link("weights", "y"))) == ["MIT", "AGPL-3.0", "unknown"]


def test_a_build_without_the_weights_says_so_in_its_lock(tmp_path: Path) -> None:
    loaded = project(tmp_path, weights="missing.safetensors")
    build(loaded, loaded.build_dir)
    lock = json.loads((loaded.build_dir / lineage.LOCK).read_text())
    assert lock["weights"] == {"source": "missing.safetensors", "address": None, "sha256": None, "lineage": None}


_LINKS = st.builds(
    Link,
    kind=st.sampled_from(["weights", "training"]),
    name=st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=20),
    sha256=st.none() | st.text("0123456789abcdef", min_size=64, max_size=64),
    licence=st.none() | st.just("MIT"),
    address=st.none() | st.just("https://example.org/w.pt"),
)


@given(st.lists(_LINKS, max_size=6).map(tuple))
@settings(deadline=None)
def test_a_chain_comes_back_from_its_text(chain: lineage.Lineage) -> None:
    assert from_json(to_json(chain)) == chain
    assert lineage.from_metadata({"lineage": lineage.to_text(chain)}) == chain
    assert line(chain)


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["kind", "name", "licence", "x"]), inner),
    )
)
@example([{"kind": "weights", "name": "a\x1b[2J"}])
@example([{"kind": "other", "name": "a"}])
@example([{"kind": "weights", "name": "a"}] * 2000)
@settings(deadline=None)
def test_what_is_no_chain_is_none(value: Any) -> None:
    chain = from_json(value)
    assert chain is None or to_json(chain) == value


def test_a_chain_in_a_strangers_file_that_is_none_is_not_believed(tmp_path: Path) -> None:
    for text in ("{", "[" * 100_000, '[{"kind": "weights"}]', "7"):
        save_weights(tmp_path / "w", {"a": np.zeros(1, np.float32)}, {"lineage": text, "license": "MIT"})
        (link,) = lineage_of(tmp_path / "w")
        assert (link.name, link.licence) == ("w", "MIT")


def test_a_record_outside_of_the_cache_is_not_believed(tmp_path: Path) -> None:
    path = weights_from(project(tmp_path), tmp_path / "w.safetensors", license="MIT")
    origin = {
        "address": "https://example.org/x",
        "file": path.name,
        "sha256": sha256(path),
        "size": path.stat().st_size,
    }
    (tmp_path / "origin.json").write_text(json.dumps(origin))
    (link,) = lineage_of(path)
    assert (link.name, link.address) == (path.name, None)


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def test_the_command_shows_the_chain_of_files_and_of_artifacts(tmp_path: Path) -> None:
    weights_from(project(tmp_path / "0"), tmp_path / "start.safetensors", license="MIT\x1b[2J")
    path = trained_by(project(tmp_path / "1", "one", weights="../start.safetensors"), tmp_path / "one.safetensors")
    shown = run("licence", path).output
    assert "1  weights start.safetensors, sha256:" in shown
    assert "2  training of one, segc " in shown
    assert "\x1b" not in shown
    assert "licences: MIT" in shown
    told = json.loads(run("licence", path, "--json").output)
    assert from_json(told["lineage"]) == lineage_of(path)
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "m.onnx").write_bytes(b"x")
    description = {
        "format": 3,
        "target": "onnx",
        "model": "m.onnx",
        "status": "verified",
        "weights": {"lineage": told["lineage"]},
    }
    (artifact / "artifact.json").write_text(json.dumps(description))
    for place in (artifact, artifact / "m.onnx"):
        assert json.loads(run("licence", place, "--json").output)["lineage"] == told["lineage"]

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from segc.architectures import build_graph
from segc.architectures.yolov8_seg import SCALES, build
from segc.commands.weights import command
from segc.diagnostics import SegcError
from segc.files import digest_file
from segc.graph.ir import Graph
from segc.network.initialise import initial_weights
from segc.spec.load import LoadedProject, load_project
from segc.weights.importing import import_weights
from segc.weights.resolve import own_metadata, starting_weights, trained_weights
from segc.weights.store import load_weights, save_weights

NAMES = ("circle", "square", "star")


def project(
    folder: Path, weights: str | None = None, names: tuple[str, ...] = NAMES, scale: str = "n"
) -> LoadedProject:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    path = folder / "project.yaml"
    line = f"  weights: {weights}\n" if weights else ""
    path.write_text(
        f"version: 1\nname: shapes\narchitecture:\n  family: yolov8-seg\n  scale: {scale}\n{line}"
        f"dataset:\n  path: data\n  format: yolo\n  train: images/train\n  val: images/val\n"
        f"  names: {json.dumps(list(names))}\nhyperparameters:\n  imgsz: 64\n"
    )
    return load_project(path)


def graph_of(loaded: LoadedProject) -> Graph:
    spec = loaded.project
    return build_graph(spec.architecture, len(spec.dataset.names), spec.hyperparameters.size)


def save(path: Path, loaded: LoadedProject, seed: int = 1) -> None:
    graph = graph_of(loaded)
    save_weights(path, initial_weights(graph.parameters, seed), own_metadata(loaded, graph))


def bias_of(weights: dict[str, np.ndarray], row: int) -> np.ndarray:  # type: ignore[type-arg]
    return weights["model.22.cv3.0.2.weight"][row]  # type: ignore[no-any-return]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def code_of(error: pytest.ExceptionInfo[SegcError]) -> str:
    return error.value.diagnostics[0].code


def test_without_any_weights_the_error_says_what_to_do(tmp_path: Path) -> None:
    loaded = project(tmp_path)
    with pytest.raises(SegcError, match="no trained weights") as error:
        trained_weights(loaded, loaded.build_dir, graph_of(loaded))
    assert code_of(error) == "W008"
    assert "segc train" in (error.value.diagnostics[0].help or "")
    assert starting_weights(loaded, graph_of(loaded)) is None


def test_the_best_weights_come_before_the_last_and_those_before_the_start(tmp_path: Path) -> None:
    loaded = project(tmp_path, "start.safetensors")
    graph = graph_of(loaded)
    found = []
    for seed, path in enumerate(
        (
            tmp_path / "start.safetensors",
            tmp_path / "build" / "weights" / "last.safetensors",
            tmp_path / "build" / "weights" / "best.safetensors",
            tmp_path / "given.safetensors",
        )
    ):
        save(path, loaded, seed)
        explicit = path if path.stem == "given" else None
        found.append(trained_weights(loaded, loaded.build_dir, graph, explicit))
    for seed, weights in enumerate(found):
        expected = initial_weights(graph.parameters, seed)
        assert all(np.array_equal(weights.tensors[name], expected[name]) for name in expected)
        assert weights.warnings == ()
        assert weights.names == NAMES


def test_weights_of_another_scale_are_refused_with_the_scale_that_they_are_of(tmp_path: Path) -> None:
    save(tmp_path / "s.safetensors", project(tmp_path / "s", scale="s"))
    loaded = project(tmp_path / "n")
    with pytest.raises(SegcError) as error:
        trained_weights(loaded, loaded.build_dir, graph_of(loaded), tmp_path / "s.safetensors")
    (diagnostic,) = error.value.diagnostics
    assert diagnostic.code == "W007"
    assert diagnostic.message == (
        "weights of yolov8-seg, scale s: model.0.conv.weight is [32, 3, 3, 3] there, [16, 3, 3, 3] here"
    )
    assert "scale: s" in (diagnostic.help or "")


def test_weights_with_other_class_names_are_taken_with_a_warning(tmp_path: Path) -> None:
    save(tmp_path / "w.safetensors", project(tmp_path / "there"))
    loaded = project(tmp_path / "here", names=("circle", "star", "square"))
    weights = trained_weights(loaded, loaded.build_dir, graph_of(loaded), tmp_path / "w.safetensors")
    (warning,) = weights.warnings
    assert (warning.code, warning.severity) == ("W009", "warning")
    assert "class 1 is square there, star here" in warning.message
    expected = initial_weights(graph_of(loaded).parameters, 1)
    assert np.array_equal(bias_of(weights.tensors, 1), bias_of(expected, 1))


def test_diverged_weights_are_taken_with_a_warning(tmp_path: Path) -> None:
    loaded = project(tmp_path)
    graph = graph_of(loaded)
    broken = initial_weights(graph.parameters, 1)
    broken["model.0.conv.weight"][:] = np.inf
    save_weights(tmp_path / "w.safetensors", broken, own_metadata(loaded, graph))
    weights = trained_weights(loaded, loaded.build_dir, graph, tmp_path / "w.safetensors")
    assert [warning.code for warning in weights.warnings] == ["W010"]


def test_training_starts_from_rows_of_classes_by_name(tmp_path: Path) -> None:
    there = project(tmp_path / "there", names=("star", "moon", "circle", "sun"))
    save(tmp_path / "w.safetensors", there)
    loaded = project(tmp_path / "here", "../w.safetensors")
    graph = graph_of(loaded)
    result = starting_weights(loaded, graph)
    assert result is not None
    assert set(result.rows) == {f"model.22.cv3.{level}.2.{kind}" for level in range(3) for kind in ("weight", "bias")}
    merged = result.apply(initial_weights(graph.parameters, 7))
    source = initial_weights(graph_of(there).parameters, 1)
    assert np.array_equal(bias_of(merged, 0), bias_of(source, 2))
    assert np.array_equal(bias_of(merged, 2), bias_of(source, 0))
    assert "class rows taken by name for 2 of 3 classes: circle, star" in result.summary()


def test_training_from_weights_of_which_nothing_fits_is_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", {"other": np.zeros(3, np.float32)}, {})
    loaded = project(tmp_path, "w.safetensors")
    with pytest.raises(SegcError) as error:
        starting_weights(loaded, graph_of(loaded))
    assert code_of(error) == "W007"


def test_the_recorded_checkpoint_serves_as_trained_and_as_starting_weights(tmp_path: Path, peer: Path) -> None:
    from segc.weights.checkpoint import read_checkpoint

    checkpoint = peer / "overfit32_last.pt"
    names = read_checkpoint(checkpoint).names
    assert names is not None
    loaded = project(tmp_path, str(checkpoint), names=names)
    graph = graph_of(loaded)
    weights = trained_weights(loaded, loaded.build_dir, graph)
    assert len(weights.tensors) == 417
    assert weights.warnings == ()
    assert weights.metadata["license"].startswith("AGPL")
    result = starting_weights(loaded, graph)
    assert result is not None
    assert len(result.matched) == 417


def test_import_writes_all_standard_tensors_and_keeps_names_and_licence(tmp_path: Path, peer: Path) -> None:
    output = tmp_path / "w.safetensors"
    result = run("import", peer / "overfit32_last.pt", "-o", output)
    assert result.exit_code == 0
    assert "licence: AGPL-3.0 (https://ultralytics.com/license)" in result.output
    assert 'scale "n", 80 classes; told from the shapes' in result.output
    assert "matched    417" in result.output
    weights = load_weights(output)
    assert len(weights.tensors) == 417
    assert weights.names is not None
    assert len(weights.names) == 80
    assert weights.metadata["license"] == "AGPL-3.0 (https://ultralytics.com/license)"
    assert {key: weights.metadata[key] for key in ("family", "scale", "nc", "task")} == {
        "family": "yolov8-seg",
        "scale": '"n"',
        "nc": "80",
        "task": "segment",
    }


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A checkpoint as PyTorch writes it, of scale n and five classes that no project here has."""
    tensors = initial_weights(build(SCALES["n"], 5, (64, 64)).parameters, 0)
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    path = tmp_path / "foreign.pt"
    names = dict(enumerate(("one", "two", "three", "four", "five")))
    torch.save({"model": state, "names": names, "license": "AGPL-3.0"}, path)
    return path


def test_two_imports_write_the_same_bytes(tmp_path: Path, foreign: Path) -> None:
    for name in ("a", "b"):
        import_weights(foreign, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_import_for_a_project_of_other_classes_accounts_for_every_key(tmp_path: Path, foreign: Path) -> None:
    loaded = project(tmp_path)
    output = tmp_path / "w.safetensors"
    result = run("import", foreign, "-o", output, "--project", loaded.path, "--json")
    account = json.loads(result.output)
    counts = account["counts"]
    assert counts["matched"] + counts["reshaped"] == 417
    assert counts["missing"] == counts["unused"] == 0
    assert all(entry["name"].startswith("model.22.cv3.") for entry in account["reshaped"])
    assert account["written"] == counts["matched"]
    assert account["metadata"]["license"].startswith("AGPL")
    shown = run("import", foreign, "-o", output, "--project", loaded.path)
    assert "the class branch's last layers start afresh" in shown.output
    assert "as the project has it" in shown.output


def test_import_keeps_class_rows_as_they_are_for_the_training_to_take(tmp_path: Path) -> None:
    there = project(tmp_path / "there", names=("star", "moon", "circle", "sun"))
    save(tmp_path / "w.safetensors", there)
    loaded = project(tmp_path / "here", "imported.safetensors")
    imported = import_weights(tmp_path / "w.safetensors", tmp_path / "here" / "imported.safetensors", loaded.path)
    assert imported.metadata["nc"] == "4"
    result = starting_weights(loaded, graph_of(loaded))
    assert result is not None
    assert len(result.rows) == 6


def test_verbose_import_shows_every_key(tmp_path: Path, foreign: Path) -> None:
    result = run("import", foreign, "-o", tmp_path / "w", "--verbose")
    assert result.output.count("\n             model.") == 417


def test_weights_of_another_network_are_not_imported(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", {"model.22.cv3.0.2.bias": np.zeros(3, np.float32)}, {})
    for tensors in ({"model.22.cv3.0.2.bias": np.zeros(3, np.float32)}, {"other": np.zeros(3, np.float32)}):
        save_weights(tmp_path / "w.safetensors", tensors, {})
        with pytest.raises(SegcError) as error:
            import_weights(tmp_path / "w.safetensors", tmp_path / "out.safetensors")
        assert code_of(error) == "W011"
        assert not (tmp_path / "out.safetensors").exists()


def test_import_never_writes_over_what_it_reads(tmp_path: Path) -> None:
    loaded = project(tmp_path)
    save(tmp_path / "w.safetensors", loaded)
    before = (tmp_path / "w.safetensors").read_bytes()
    with pytest.raises(SegcError):
        import_weights(tmp_path / "w.safetensors", tmp_path / "w.safetensors")
    assert (tmp_path / "w.safetensors").read_bytes() == before


@pytest.mark.parametrize("prefix", ["model.", "net.model.", "_orig_mod.", "module."])
def test_a_state_dict_of_any_prefix_is_imported_whole(tmp_path: Path, prefix: str) -> None:
    loaded = project(tmp_path)
    tensors = initial_weights(graph_of(loaded).parameters, 1)
    torch.save({prefix + name: torch.from_numpy(array) for name, array in tensors.items()}, tmp_path / "w.pt")
    for options in ((), ("--project", loaded.path)):
        result = run("import", tmp_path / "w.pt", "-o", tmp_path / "w.safetensors", *options)
        assert "matched    417" in result.output
        assert f"note: prefix `{prefix}` left off every name" in result.output
    imported = load_weights(tmp_path / "w.safetensors").tensors
    assert all(np.array_equal(imported[name], tensors[name]) for name in tensors)
    (tmp_path / "here").mkdir()
    result = starting_weights(project(tmp_path / "here", "../w.pt"), graph_of(loaded))
    assert result is not None
    assert len(result.matched) == 417
    assert f"prefix `{prefix}` left off every name" in result.notes


def test_the_kind_of_a_file_is_told_by_its_content(tmp_path: Path) -> None:
    loaded = project(tmp_path)
    graph = graph_of(loaded)
    save(tmp_path / "own.pt", loaded)
    state = {name: torch.from_numpy(array) for name, array in initial_weights(graph.parameters, 1).items()}
    torch.save(state, tmp_path / "foreign.safetensors")
    for name in ("own.pt", "foreign.safetensors"):
        weights = trained_weights(loaded, loaded.build_dir, graph, tmp_path / name)
        assert np.array_equal(bias_of(weights.tensors, 0), state["model.22.cv3.0.2.weight"][0].numpy())
        assert run("show", tmp_path / name).exit_code == 0


@pytest.mark.parametrize(
    ("wrap", "averaged"),
    [
        (lambda raw, ema: {"model": raw, "ema": ema}, True),
        (lambda raw, _: {"model": raw, "ema": None}, False),
        (lambda _, ema: {"model": None, "ema": ema}, True),
        (lambda _, ema: {"ema_state_dict": {f"module.{name}": value for name, value in ema.items()}}, True),
        (
            lambda raw, _: {name: value.half() if value.is_floating_point() else value for name, value in raw.items()},
            False,
        ),
        (lambda raw, _: raw, False),
    ],
)
def test_a_training_starts_from_averaged_weights_or_from_what_is_there(
    tmp_path: Path, wrap: Callable[..., Any], averaged: bool
) -> None:
    loaded = project(tmp_path, "start.pt")
    graph = graph_of(loaded)
    raw, ema = (
        {name: torch.from_numpy(array) for name, array in initial_weights(graph.parameters, seed).items()}
        for seed in (1, 2)
    )
    torch.save(wrap(raw, ema), tmp_path / "start.pt")
    result = starting_weights(loaded, graph)
    assert result is not None
    assert len(result.matched) == 417
    wanted = (ema if averaged else raw)["model.0.conv.weight"].numpy()
    assert np.allclose(result.tensors["model.0.conv.weight"], wanted, atol=1e-3)
    assert not np.allclose(result.tensors["model.0.conv.weight"], -wanted, atol=1e-3)


def test_the_backbone_of_a_detector_is_taken_and_counted_part_by_part(tmp_path: Path) -> None:
    loaded = project(tmp_path, "detector.pt")
    graph = graph_of(loaded)
    state = {
        name: torch.from_numpy(array)
        for name, array in initial_weights(graph.parameters, 1).items()
        if not name.startswith(("model.22.cv4", "model.22.proto"))
    }
    torch.save({"model": state}, tmp_path / "detector.pt")
    result = starting_weights(loaded, graph)
    assert result is not None
    assert result.parts[:2] == (("backbone", 162, 162), ("neck", 108, 108))
    part, taken, total = result.parts[2]
    assert (part, total) == ("head", 147)
    assert 0 < taken < total
    assert f"tensors taken: backbone 162 of 162, neck 108 of 108, head {taken} of 147" in result.summary()
    assert all(name.startswith(("model.22.cv4", "model.22.proto")) for name in result.missing)


def test_a_training_from_another_scale_is_refused_with_the_reason(tmp_path: Path) -> None:
    save(tmp_path / "s.safetensors", project(tmp_path / "s", scale="s"))
    loaded = project(tmp_path / "n", "../s.safetensors")
    with pytest.raises(SegcError, match="weights of yolov8-seg, scale s"):
        starting_weights(loaded, graph_of(loaded))
    with pytest.raises(SegcError, match="weights of yolov8-seg, scale s"):
        import_weights(tmp_path / "s.safetensors", tmp_path / "out.safetensors", loaded.path)


def test_no_advice_leads_in_a_circle(tmp_path: Path) -> None:
    loaded = project(tmp_path)
    save_weights(tmp_path / "w.safetensors", {"other.weight": np.zeros(3, np.float32)}, {})
    with pytest.raises(SegcError) as error:
        import_weights(tmp_path / "w.safetensors", tmp_path / "out.safetensors", loaded.path)
    (diagnostic,) = error.value.diagnostics
    assert "names like other.weight, the network's like model.0.conv.weight" in diagnostic.message
    assert "project" not in (diagnostic.help or "")


def test_a_digest_that_the_project_states_is_checked(tmp_path: Path) -> None:
    there = project(tmp_path / "there")
    save(tmp_path / "w.safetensors", there)
    digest = digest_file(tmp_path / "w.safetensors").removeprefix("sha256:")
    loaded = project(tmp_path / "here", f"{{source: ../w.safetensors, sha256: {digest}}}")
    assert starting_weights(loaded, graph_of(loaded)) is not None
    loaded = project(tmp_path / "here", f"{{source: ../w.safetensors, sha256: {'ab' * 32}}}")
    with pytest.raises(SegcError, match="N003"):
        starting_weights(loaded, graph_of(loaded))


def test_show_lists_tensors_and_metadata_of_own_and_foreign_files(tmp_path: Path, foreign: Path) -> None:
    loaded = project(tmp_path)
    save(tmp_path / "w.safetensors", loaded)
    own = run("show", tmp_path / "w.safetensors")
    assert "[16, 3, 3, 3]" in own.output
    assert 'names: ["circle", "square", "star"]' in own.output
    other = json.loads(run("show", foreign, "--json").output)
    assert len(other["tensors"]) == 417
    assert other["metadata"]["license"].startswith("AGPL")


def test_show_cannot_be_made_to_steer_the_terminal(tmp_path: Path) -> None:
    save_weights(tmp_path / "w", {"a\x1b[2J": np.zeros(1, np.float32)}, {"k\x1b": "v\r\n"})
    assert "\x1b" not in run("show", tmp_path / "w").output

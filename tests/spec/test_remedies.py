"""Ways out follow from where a key or a value stands, and safe edits make nothing worse."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segc import cli
from segc.spec.fix import fixed
from segc.spec.hyperparameters import Augment, Hyperparameters
from segc.spec.load import check_text
from segc.spec.project import Project

BASE = """\
version: 1
name: a
architecture: {family: yolov8-seg, scale: n}
dataset: {train: images/train, val: images/val, names: [a]}
"""


@pytest.mark.parametrize(
    ("more", "help_"),
    [
        ("targets:\n  - format: onnx\n    keras: true\n", "onnx has no `keras`; saved_model has it"),
        (
            "targets:\n  - format: tfjs\n    int8: true\n",
            "tfjs has no `int8`: TensorFlow.js computes in floats only, whatever weights are stored in; onnx",
        ),
        ("targets: [onnx]\n", "write `- format: onnx`"),
        ("targets: onnx\n", "write `targets: [{format: onnx}]`"),
        ("targets: {onnx: {half: true}}\n", "targets are a list, an item each: `- format: onnx`"),
        ("targets: {format: tflite}\n", "targets are a list, an item each: `- format: tflite`"),
        ("scale: n\n", "`scale` stands under `architecture` or under `hyperparameters.augment`"),
        ("hyperparameters: {scale: 0.5}\n", "`scale` stands under `architecture` or under `hyperparameters.augment`"),
        ("hyperparameters: {batch: -1}\n", "`batch: auto` takes what fits into the memory"),
        ("hyperparameters: {epoch: 3}\n", "did you mean `epochs`?"),
        ("hyperparameters: {cos_lr: 1}\n", "YAML 1.2 writes `true`"),
        ("half: true\n", "`half` is an option of targets: of "),
        ("epochs: 3\n", "`epochs` stands under `hyperparameters`"),
    ],
)
def test_the_way_out_follows_from_the_place(tmp_path: Path, more: str, help_: str) -> None:
    _, found = check_text(BASE + more, tmp_path / "project.yaml")
    (error,) = [one for one in found if one.severity == "error"]
    assert error.help is not None
    assert error.help.startswith(help_)


@pytest.mark.parametrize("key", sorted({*Hyperparameters.model_fields, *Augment.model_fields} - {"mask", "scale"}))
def test_every_key_at_the_top_is_told_where_it_stands(tmp_path: Path, key: str) -> None:
    _, found = check_text(f"{BASE}{key}: 1\n", tmp_path / "project.yaml")
    (error,) = [one for one in found if one.severity == "error"]
    home = "hyperparameters" if key in Hyperparameters.model_fields else "hyperparameters.augment"
    assert key not in Project.model_fields
    assert f"`{home}`" in (error.help or "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--epochs", "3"], "--set hyperparameters.epochs=VALUE"),
        (["train", "--batch-size", "3"], "--set hyperparameters.batch=VALUE"),
        (["train", "--mosaic", "0"], "--set hyperparameters.augment.mosaic=VALUE"),
        (["validate", "--int8"], "an option of the targets onnx, openvino, tensorrt, coreml, tflite and ncnn"),
    ],
)
def test_a_key_taken_for_an_option_is_told_how_it_is_set(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert cli.run(arguments) == 2
    assert words in capsys.readouterr().err


Edit = Callable[[str], str]
EDITS: list[tuple[str, str]] = [
    ("scale: n", "scal: n"),
    ("version: 1", 'version: "1"'),
    ("train: images/train", "train: images/train, epohcs: 3"),
    ("name: a", "name: 7"),
    ("\narchitecture: {", "\narchitecture: {  # why\n  "),
    ("names: [a]", "names: a"),
    ("family: yolov8-seg", "family: yolov8-sge"),
    ("dataset: {", "targets: [onnx]\ndataset: {"),
    ("version: 1", "version: 1  # kept"),
]


@settings(max_examples=60, deadline=None)
@given(edits=st.lists(st.sampled_from(EDITS), max_size=5), cut=st.integers(0, 400))
def test_safe_edits_make_nothing_worse_keep_comments_and_come_to_an_end(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, str]], cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "project.yaml"
    text = BASE
    for old, new in edits:
        text = text.replace(old, new, 1)
    text = text[: max(cut, 60)]

    def errors(content: str) -> int:
        return sum(one.severity == "error" for one in check_text(content, path)[1])

    mended = fixed(text, path)
    assert fixed(mended, path) == mended
    assert errors(mended) <= errors(text) or "Y0" in str(check_text(text, path)[1])
    assert [line.split("#")[1] for line in mended.splitlines() if "#" in line] == [
        line.split("#")[1] for line in text.splitlines() if "#" in line
    ]


@pytest.mark.parametrize(("value", "mended"), [("-1", "auto"), ("-2", "-2"), ("0", "0")])
def test_a_batch_of_minus_one_is_what_others_call_automatic(tmp_path: Path, value: str, mended: str) -> None:
    text = BASE.rstrip() + "\nhyperparameters: {epochs: 1, batch: %s}  # kept\n"
    assert fixed(text % value, tmp_path / "project.yaml") == text % mended

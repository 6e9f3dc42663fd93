"""The Paddle target computes what PyTorch computes, always in the same bytes, and reads only what segc wrote.

Paddle does not bear other frameworks in its process: everything here runs it in one of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from segc.files import digest_file
from segc.graph.ops import OPERATORS
from segc.targets.paddle import guard
from segc.targets.paddle.lowering import LOWERINGS
from segc.targets.paddle.runtime import PARAMETERS, PROGRAM
from tests.conformance.operators import RECIPES
from tests.targets.conftest import contents, outputs_agree, refusal, run_in_worker
from tests.targets.standalone import ABSENT, ROOT, Standalone

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from segc.network.session import TorchSession
    from tests.targets.conftest import Trained


@pytest.fixture(scope="module")
def folder(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact at 160 pixels, with its script."""
    made = tmp_path_factory.mktemp("paddle") / "artifact"
    assert trained.emit("paddle", made, (160, 160)).model == "photos_paddle_model"
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return folder / "photos_paddle_model"


def gives_what_torch_gives(trained: Trained, model: Path, reference: TorchSession, images: np.ndarray) -> None:
    images, size = np.ascontiguousarray(images), (images.shape[2], images.shape[3])
    ours, said = run_in_worker("paddle", model, images)
    assert said["metadata"] == trained.metadata(size, segc_version="0").to_json()
    assert said["runtime"] == "Paddle Inference on the CPU"
    outputs_agree(ours, reference.run(images), size)


def test_a_model_agrees_with_torch(
    trained: Trained, model: Path, reference: TorchSession, photographs: np.ndarray
) -> None:
    gives_what_torch_gives(trained, model, reference, photographs[:, :, :160, :160])


def test_a_model_that_is_not_square_agrees_with_torch(
    trained: Trained, reference: TorchSession, photographs: np.ndarray, tmp_path: Path
) -> None:
    model = trained.emit("paddle", tmp_path / "m", (224, 416)).model
    gives_what_torch_gives(trained, tmp_path / "m" / model, reference, photographs[:1, :, :224, :416])


def test_every_operator_but_free_anchors_is_lowered() -> None:
    assert set(OPERATORS) - set(LOWERINGS) == {"anchor_points", "cast", "fake_quantize"}


def test_the_same_input_gives_the_same_bytes_in_every_process(
    trained: Trained, folder: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    trained.emit("paddle", tmp_path / "again", (160, 160))
    assert contents(tmp_path / "again") == contents(folder)
    assert set(contents(model)) == {PROGRAM, PARAMETERS, "metadata.json"}


def test_parameters_are_named_after_their_place_in_the_network_and_no_path_is_in_it(model: Path, folder: Path) -> None:
    text = (model / PROGRAM).read_text()
    for name in ("model.0.conv.weight", "model.2.m.0.cv1.conv.bias", "model.22.proto.upsample.weight"):
        assert f'"{name}"' in text
    assert "batch_norm" not in text
    assert str(folder.parent) not in text
    assert "/site-packages/" not in text


def in_file(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def without_digests(folder: Path) -> None:
    path = folder / "metadata.json"
    kept = json.loads(path.read_text())
    del kept["files"]
    path.write_text(json.dumps(kept))


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "no program": (without(PROGRAM), f"{PROGRAM} is not in it"),
    "no parameters": (without(PARAMETERS), f"{PARAMETERS} is not in it"),
    "no metadata": (without("metadata.json"), "not a model of segc"),
    "no digests": (without_digests, f"damaged: {PROGRAM} is not what segc wrote"),
    "foreign metadata": (in_file("metadata.json", lambda _: b"[]"), "not a model of segc"),
    "program cut": (in_file(PROGRAM, lambda b: b[:-100]), f"damaged: {PROGRAM} is not what segc wrote"),
    "parameters cut": (in_file(PARAMETERS, lambda b: b[:-100]), f"damaged: {PARAMETERS} is not what segc wrote"),
    "one bit of a weight": (in_file(PARAMETERS, lambda b: b[:-1] + bytes([b[-1] ^ 1])), f"damaged: {PARAMETERS}"),
}


@pytest.fixture
def without_paddle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segc.targets.paddle.runtime.import_paddle", lambda: pytest.fail("paddle was imported"))


@pytest.mark.usefixtures("without_paddle")
@pytest.mark.parametrize("kind", HARM)
def test_a_damaged_model_is_refused_before_paddle_sees_it(kind: str, copy: Path) -> None:
    harm, message = HARM[kind]
    harm(copy)
    assert message in refusal(copy)


def in_metadata(**values: Any) -> Callable[[Path], object]:
    def harm(folder: Path) -> None:
        path = folder / "metadata.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return harm


def with_digests(folder: Path) -> None:
    """Let the digests be right, as strangers can."""
    in_metadata(files={name: digest_file(folder / name) for name in (PROGRAM, PARAMETERS)})(folder)


def in_program(change: Callable[[list[Any]], object]) -> Callable[[Path], object]:
    """A change of the program's operators."""

    def harm(folder: Path) -> None:
        program = json.loads((folder / PROGRAM).read_text())
        change(program["program"]["regions"][0]["blocks"][0]["ops"])
        (folder / PROGRAM).write_text(json.dumps(program))

    return harm


def first(operators: list[Any], kind: str) -> Any:
    return next(operator for operator in operators if operator["#"] == kind)


def attribute(kind: str, name: str, value: Any) -> Callable[[Path], object]:
    def change(operators: list[Any]) -> None:
        (found,) = (one["AT"] for one in first(operators, kind)["A"] if one["N"] == name)
        found["D"] = [{**one, "D": value} for one in found["D"]] if isinstance(found["D"], list) else value

    return in_program(change)


def called(kind: str, **fields: Any) -> Callable[[Path], object]:
    """The first operator of a kind with other fields."""
    return in_program(lambda operators: first(operators, kind).update(fields))


PRINTS = [
    *({"AT": {"#": "0.a_i32", "D": number}, "N": name} for name, number in (("first_n", -1), ("summarize", 9))),
    *({"AT": {"#": "0.a_str", "D": text}, "N": name} for name, text in (("message", "here"), ("print_phase", "BOTH"))),
    *(
        {"AT": {"#": "0.a_bool", "D": True}, "N": f"print_tensor_{name}"}
        for name in ("name", "type", "shape", "layout", "lod")
    ),
    {"AT": {"#": "0.a_bool", "D": True}, "N": "is_forward"},
]

NOT_OF_SEGC = "is not among the operators that segc writes"

HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "prints": (called("1.sigmoid", **{"#": "1.print", "A": PRINTS}), f"refused: '1.print' {NOT_OF_SEGC}"),
    "saves a file": (called("1.sigmoid", **{"#": "1.save_combine"}), f"refused: '1.save_combine' {NOT_OF_SEGC}"),
    "loads a file": (called("1.sigmoid", **{"#": "1.load_combine"}), f"refused: '1.load_combine' {NOT_OF_SEGC}"),
    "calls Python": (called("1.sigmoid", **{"#": "1.py_func"}), f"refused: '1.py_func' {NOT_OF_SEGC}"),
    "an operator of a stranger's": (called("1.sigmoid", **{"#": "5.mine"}), f"refused: '5.mine' {NOT_OF_SEGC}"),
    "an operator with a body": (called("1.sigmoid", regions=[]), "refused: 1.sigmoid has 'regions'"),
    "an operator without a name": (in_program(lambda ops: ops.append({})), "is not of the form"),
    "no operators": (in_file(PROGRAM, lambda _: b"{}"), "is not of the form"),
    "a program cut": (in_file(PROGRAM, lambda b: b[:-100]), f"damaged: {PROGRAM} is no program of Paddle"),
    "a program in a program": (in_file(PROGRAM, lambda _: b"[" * 100_000), "is no program of Paddle"),
    "a key twice": (in_file(PROGRAM, lambda b: b.replace(b"{", b'{"program":1,', 1)), "is no program of Paddle"),
    "a stride of nought": (attribute("1.conv2d", "strides", 0), "damaged: 'strides' is 0"),
    "no groups": (attribute("1.conv2d", "groups", 0), "damaged: 'groups' is 0"),
    "endless padding": (attribute("1.conv2d", "paddings", 1 << 30), "damaged: 'paddings' is"),
    "a negative repetition": (attribute("1.repeat_interleave", "repeats", -1), "damaged: 'repeats' is -1"),
    "an axis too far": (attribute("1.softmax", "axis", 99), "damaged: 'axis' is 99"),
    "an endless number": (attribute("1.softmax", "axis", 10**400), "is not of the form"),
    "another type": (attribute("1.softmax", "axis", "one"), "refused: segc writes no attribute 'axis'"),
    "an endless shape": (
        in_program(lambda ops: first(ops, "1.data")["A"][1]["AT"].update(D=[1, 3, 1 << 40, 1 << 40])),
        "damaged: 'shape' is",
    ),
    "an impossible result": (
        in_program(lambda ops: first(ops, "1.silu")["O"][0]["TT"]["D"].__setitem__(1, [1, -7, 1 << 30])),
        "damaged: a tensor has the impossible shape",
    ),
    "a value of nowhere": (called("1.sigmoid", I=[{"%": 99999}]), "reads value 99999, which nothing before it makes"),
    "a value twice": (
        in_program(lambda ops: first(ops, "1.silu")["O"][0].update({"%": 1})),
        "damaged: value 1 is made twice",
    ),
    "a parameter of another shape": (
        in_program(lambda ops: first(ops, "p")["O"]["TT"]["D"].__setitem__(1, [1, 99, 1])),
        "has something else in the place of 'model.22.boxes.anchors.1.value'",
    ),
    "a parameter less": (
        in_program(lambda ops: ops.insert(0, {**ops[0], "A": [0, 1, 1, "a"], "O": {**ops[0]["O"], "%": 9999}})),
        "has something else in the place of 'a'",
    ),
    "parameters cut": (in_file(PARAMETERS, lambda b: b[:-100]), f"damaged: {PARAMETERS} has"),
    "no parameters": (in_file(PARAMETERS, lambda _: b""), f"damaged: {PARAMETERS} ends before"),
    "other parameters": (in_file(PARAMETERS, lambda b: b"\xff" * len(b)), f"damaged: {PARAMETERS} has something else"),
    "more parameters": (in_file(PARAMETERS, lambda b: b + b[:500]), f"damaged: {PARAMETERS} has"),
    "outputs that are no names": (in_metadata(outputs=[1]), "metadata.json names no outputs"),
}
"""What a stranger might do who can compute digests."""


@pytest.mark.usefixtures("without_paddle")
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_program_of_a_stranger_is_refused_before_paddle_sees_it(kind: str, copy: Path) -> None:
    harm, message = HOSTILE[kind]
    harm(copy)
    with_digests(copy)
    assert message in refusal(copy)


OPEN = """\
import json, shutil, sys
from pathlib import Path
import numpy as np
from segc.inference.metadata import ModelError
from segc.targets.paddle.runtime import open_model
said = []
for path in sys.argv[1:]:
    try:
        model = open_model(Path(path), 1)
        model.run(np.zeros((1, 3, *model.metadata.imgsz), np.float32))
        said.append("ran")
    except ModelError as error:
        said.append(str(error))
print(json.dumps(said))
"""
"""What a script does, which has no guard."""

UNFIT: dict[str, tuple[Callable[[Path], object], str]] = {
    "another size": (in_metadata(imgsz=[192, 160]), "its input is [1, 3, 160, 160], and its metadata speak of"),
    "other outputs": (in_metadata(outputs=["boxes", "scores"]), "its outputs are 'boxes, scores', its metadata"),
    "another layout": (in_metadata(layout="fused"), "its metadata speak of output0, output1"),
    "names too few": (in_metadata(names=["a"]), "its outputs have other shapes than its metadata speak of"),
    "no groups": (HOSTILE["no groups"][0], "Paddle cannot run it: "),
    "a stride of nought": (HOSTILE["a stride of nought"][0], "Paddle cannot load it: "),
    "a value of nowhere": (HOSTILE["a value of nowhere"][0], "Paddle cannot load it: "),
    "no parameters": (HOSTILE["no parameters"][0], "Paddle cannot load it: "),
}


def test_the_carried_text_refuses_what_does_not_run_in_one_line(model: Path, tmp_path: Path) -> None:
    paths = []
    for kind, (harm, _) in UNFIT.items():
        paths.append(shutil.copytree(model, tmp_path / kind / model.name))
        harm(paths[-1])
        with_digests(paths[-1])
    command = [sys.executable, "-c", OPEN, *map(str, paths)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for said, (_, message) in zip(json.loads(done.stdout.splitlines()[-1]), UNFIT.values(), strict=True):
        assert said.startswith(message) or message in said
        assert "\n" not in said


WRITE = """\
import sys
from pathlib import Path
from segc.graph.passes import fixed_anchors
from segc.network.initialise import initial_weights
from segc.targets.paddle.lowering import save_program
from tests.conformance.operators import RECIPES, build_recipe
for number, name in enumerate(RECIPES):
    graph = build_recipe(name)
    save_program(*fixed_anchors(graph, initial_weights(graph.parameters, 0)), Path(sys.argv[1]) / f"{number}")
"""


def test_the_guard_knows_every_operator_that_is_written(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, capture_output=True, timeout=300, check=True)
    for number in range(len(RECIPES)):
        shapes = guard.check_program(guard.read_program(tmp_path / f"{number}.json"))
        guard.check_parameters((tmp_path / f"{number}.pdiparams").read_bytes(), shapes)


@pytest.fixture(scope="module")
def standalone(folder: Path) -> Standalone:
    return Standalone(folder, [*ABSENT, "onnxruntime"])


def test_the_script_finds_what_segc_predict_finds(
    standalone: Standalone, model: Path, shapes: Path, tmp_path: Path
) -> None:
    photos = sorted((shapes / "images" / "train").iterdir())[:3]
    standalone.finds_what_segc_predict_finds(model, photos, tmp_path)


def test_the_script_says_nothing_but_what_it_found(standalone: Standalone, shapes: Path, tmp_path: Path) -> None:
    done = standalone(min((shapes / "images" / "train").iterdir()), "-o", tmp_path)
    assert done.returncode == 0
    assert done.stderr == "runs in Paddle Inference on the CPU\n"
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize("kind", ["no parameters", "foreign metadata", "program cut"])
def test_the_script_refuses_a_damaged_model_in_one_line(kind: str, standalone: Standalone, copy: Path) -> None:
    HARM[kind][0](copy)
    done = standalone("predict.py", "--model", copy)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{copy}: ")

"""SavedModel, GraphDef and Keras compute what PyTorch computes, say what they are, and no foreign graph is run.

TensorFlow never enters this process: it does not bear other frameworks beside it.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

from segc.emission.verify import OUTPUTS, cases
from segc.targets.registry import targets
from tests.targets.conftest import contents, outputs_agree, run_in_worker
from tests.targets.forms import SIZE, Forms, in_a_process, refused, spoiled
from tests.targets.standalone import ROOT, Standalone, segc

if TYPE_CHECKING:
    from tests.targets.conftest import Trained

FORMATS = ["saved_model", "graphdef"]


@pytest.fixture(scope="module")
def forms(trained: Trained, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Forms:
    return Forms(trained, shapes, tmp_path_factory.mktemp("forms"))


@pytest.fixture(scope="module")
def photographs(forms: Forms) -> np.ndarray:
    (case,) = cases(forms.photos[:3], SIZE, dynamic=False)
    return case.images


@pytest.fixture(scope="module")
def expected(trained: Trained, photographs: np.ndarray) -> dict[str, np.ndarray]:
    from segc.network.session import TorchSession

    return TorchSession(trained.graph(SIZE), trained.weights, trained.metadata(SIZE)).run(photographs)


@pytest.mark.parametrize("form", FORMATS)
def test_an_artifact_gives_back_its_metadata_and_what_torch_gives(
    form: str, forms: Forms, photographs: np.ndarray, expected: dict[str, np.ndarray]
) -> None:
    ours, said = run_in_worker(form, forms[form].model, photographs)
    assert said["metadata"] == forms.metadata(form).to_json()
    assert said["runtime"] == "TensorFlow on the CPU"
    outputs_agree(ours, expected, SIZE)


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_input_gives_the_same_bytes_in_every_process(
    form: str, forms: Forms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = forms[form].model.parent
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    forms.emit(form, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(first)


def test_the_network_needs_no_transpose_and_its_nodes_are_named_after_their_place(forms: Forms) -> None:
    code = (
        "import sys, json, tensorflow as tf\n"
        "d = tf.compat.v1.GraphDef(); d.ParseFromString(open(sys.argv[1], 'rb').read())\n"
        "print(json.dumps({n.name: n.op for n in d.node}))"
    )
    kinds = in_a_process(code, forms["graphdef"].model)
    assert "Transpose" not in kinds.values()
    assert list(kinds.values()).count("Conv2D") == 71
    assert kinds["model.2.m.0.cv1.conv/Conv2D"] == "Conv2D"
    assert [kinds[name] for name in OUTPUTS] == ["Identity"] * 4


LOWERED = """\
import io, json, sys, zipfile
sys.path.insert(0, sys.argv[1])
from operators import RECIPES, build_recipe
from segc.diagnostics import SegcError
from segc.graph.ops import OPERATORS
from segc.graph.passes import run_passes
from segc.inference.metadata import Metadata
from segc.network.initialise import initial_weights
from segc.targets.suppression import SuppressionOptions
from segc.targets.tensorflow import keras_lowering, keras_runtime, lowering, operations, passes
made, classes, plain = set(), set(), SuppressionOptions(format="graphdef")
for graph in map(build_recipe, RECIPES):
    form = run_passes(passes(plain, None), graph, initial_weights(graph.parameters, 0))
    made |= {node.op for node in lowering.freeze(*form).definition.node}
    try:
        content = keras_lowering.keras_model(*form, "model", Metadata(("a",), (32, 32)))
    except SegcError:
        continue
    layers = json.loads(zipfile.ZipFile(io.BytesIO(content)).read("config.json"))
    classes |= set(keras_runtime._classes(layers))
found = (
    made ^ operations.OPERATIONS,
    classes ^ keras_runtime.KERAS_CLASSES,
    set(OPERATORS) - set(lowering.LOWERINGS),
    set(OPERATORS) - set(keras_lowering.LOWERINGS),
)
print(json.dumps([sorted(names) for names in found]))
"""


def test_what_is_lowered_is_what_may_be_read_and_no_more() -> None:
    operations, classes, missing, in_keras = in_a_process(LOWERED, ROOT / "tests" / "conformance")
    assert operations == []
    assert classes == []
    # Passes have fixed the anchors, and there is no half precision in these formats.
    assert missing == ["anchor_points", "cast", "fake_quantize"]
    assert in_keras == sorted([*missing, "finished_masks", "nms"])


def test_a_saved_model_holds_one_signature_with_named_outputs_and_its_metadata(forms: Forms) -> None:
    model = forms["saved_model"].model
    assert sorted(contents(model)) == ["assets.extra/metadata.json", "saved_model.pb"]
    code = (
        "import sys, json, tensorflow as tf\n"
        "s = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        "print(json.dumps({n: t.shape.as_list() for n, t in {**s.structured_input_signature[1], "
        "**s.structured_outputs}.items()}))"
    )
    assert in_a_process(code, model) == {
        "images": [1, 160, 160, 3],
        "boxes": [1, 525, 4],
        "scores": [1, 525, 6],
        "coefficients": [1, 525, 32],
        "prototypes": [1, 40, 40, 32],
    }


# ---- Keras


KERAS = """\
import sys, json, numpy as np
from pathlib import Path
from segc.inference.metadata import ModelError
from segc.targets.tensorflow.keras_runtime import open_model
images, made, *models = sys.argv[1:]
found = []
for path in map(Path, models):
    try:
        model = open_model(path, 1)
        np.savez(made, **model.run(np.load(images)))
        found.append([model.metadata.to_json(), model.runtime])
    except ModelError as error:
        found.append(str(error))
print(json.dumps(found))
"""
"""Runs Keras models as verification does; prints what each says about itself, or how it is refused."""


@pytest.fixture
def keras(forms: Forms) -> Path:
    return forms["saved_model"].model.with_name("photos.keras")


def test_keras_is_needed_only_where_it_is_asked_for() -> None:
    target = targets()["saved_model"]
    needed = [
        [requirement.package for requirement in target.requirements(target.options(format="saved_model", keras=keras))]
        for keras in (False, True)
    ]
    assert needed == [["tensorflow"], ["tensorflow", "keras"]]


def test_a_keras_model_is_run_as_any_other_and_gives_what_torch_gives(
    forms: Forms, keras: Path, photographs: np.ndarray, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", photographs)
    (said,) = in_a_process(KERAS, tmp_path / "images.npy", tmp_path / "made.npz", keras)
    assert said == [forms.metadata("saved_model").to_json(), "Keras on TensorFlow, on the CPU"]
    outputs_agree(dict(np.load(tmp_path / "made.npz")), expected, SIZE)


def test_an_artifact_names_the_keras_model_beside_it_and_what_opens_that(trained: Trained, tmp_path: Path) -> None:
    made = trained.emit("saved_model", tmp_path / "out", (64, 64), keras=True)
    assert [tuple(one) for one in made.beside] == [("photos.keras", "segc.targets.tensorflow.keras_runtime")]
    assert (tmp_path / "out" / "photos.keras").is_file()
    assert not trained.emit("saved_model", tmp_path / "plain", (64, 64)).beside


def test_keras_loads_the_model_without_segc_and_it_computes_the_same(
    forms: Forms, keras: Path, photographs: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", photographs.transpose(0, 2, 3, 1))
    code = (
        "import sys; sys.modules['segc'] = None\n"
        "import json, keras, numpy as np\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "made = model(np.load(sys.argv[2]))\n"
        "layer = keras.layers.TFSMLayer(sys.argv[3], call_endpoint='serving_default')\n"
        "same = [np.abs(layer(np.load(sys.argv[2])[:1])[k] - np.asarray(made[k])[:1]).max() for k in made]\n"
        "print(json.dumps([type(model).__name__, model.input_shape, max(map(float, same))]))"
    )
    kind, shape, difference = in_a_process(code, keras, tmp_path / "images.npy", forms["saved_model"].model)
    assert (kind, shape) == ("Functional", [None, 160, 160, 3])
    assert difference < 1e-3


def rewritten(path: Path, member: str, text: str, into: Path) -> Path:
    """A copy of a Keras model with another member."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(into, "w") as new:
        for name in old.namelist():
            new.writestr(name, text if name == member else old.read(name))
    return into


DAMAGES = {
    "foreign": "it is no archive with metadata",
    "cut off": "it is no archive with metadata",
    "no metadata": "not a model of segc",
    "another size": "its input is [1, 160, 160, 3], and its metadata speak of [1, 64, 64, 3]",
    "code": "it is made of 'Lambda'",
    "no weights": "Keras cannot load it",
}


def test_a_keras_model_that_is_not_one_of_segc_is_refused(keras: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(keras) as archive:
        metadata = json.loads(archive.read("segc.json"))
        layers = archive.read("config.json").decode()
    paths = [tmp_path / f"{damage}.keras" for damage in DAMAGES]
    for path in paths[:2]:
        spoiled(Path(shutil.copy(keras, path)), path.stem)
    rewritten(keras, "segc.json", "{}", paths[2])
    rewritten(keras, "segc.json", json.dumps({**metadata, "imgsz": [64, 64]}), paths[3])
    rewritten(keras, "config.json", layers.replace('"ZeroPadding2D"', '"Lambda"'), paths[4])
    rewritten(keras, "model.weights.h5", "none", paths[5])
    for said, message in zip(in_a_process(KERAS, "none", "none", *paths), DAMAGES.values(), strict=True):
        assert message in said
        assert "\n" not in said


# ---- damaged and foreign files


def test_a_spoiled_graph_is_refused(forms: Forms, tmp_path: Path) -> None:
    copies = []
    for form in FORMATS:
        for change in ("cut off", "foreign", "empty", "no metadata", "no model"):
            folder = tmp_path / f"{form} {change}"
            shutil.copytree(forms[form].model.parent, folder)
            model = folder / forms[form].model.name
            message = model / "saved_model.pb" if model.is_dir() else model
            if change == "no metadata":
                next(folder.rglob("metadata.json")).unlink()
            elif change == "no model":
                message.unlink()
            else:
                spoiled(message, change)
            copies.append((form, model))
    said = refused(*copies)
    assert len(said) == 10
    for line in said:
        assert "T006" in line


def test_metadata_of_another_model_are_refused(forms: Forms, tmp_path: Path) -> None:
    changes = [{"imgsz": [64, 64]}, {"layout": "fused"}, {"batch": 2}, {"shape": 1}]
    copies = []
    for form in FORMATS:
        for number, change in enumerate(changes):
            folder = tmp_path / f"{form}{number}"
            shutil.copytree(forms[form].model.parent, folder)
            sidecar = next(folder.rglob("metadata.json"))
            sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **change}))
            copies.append((form, folder / forms[form].model.name))
    said = refused(*copies)
    assert len(said) == 8
    for line in said:
        assert "T006" in line
        assert "its metadata" in line


OF_A_GRAPH = {
    "writes a file": "it has the operation 'WriteFile'",
    "a remote device": "it wants to run on '/job:worker",
    "functions": "it has functions",
    "an endless constant": "values where at most",
    "a negative constant": "is no constant of it",
    "a variant": "is no constant of it",
    "an input that is not there": "TensorFlow cannot load it",
    "a second input": "it has 2 inputs",
    "another output": "its outputs are 'boxen, coefficients",
    "another size": "TensorFlow cannot load it",
}
"""What a stranger did to a graph, and what is said of it."""

OF_A_SAVED_MODEL = {
    **OF_A_GRAPH,
    # Its signature says what the outputs are called.
    "another output": "TensorFlow cannot load it",
    "an init operation": "its signatures are",
    "a main operation": "beside its graph it has collection_def",
    "objects": "beside its graph it has object_graph_def",
    "two graphs": "it has 2 graphs",
    "no boxes": "its outputs are",
    "boxes of nowhere": "TensorFlow cannot load it",
    "a second message": "there is 'saved_model.cpb' in it",
}
"""Likewise to a SavedModel's graph, message or folder."""


class Hostile(NamedTuple):
    """What strangers made of the artifacts, and how that was refused."""

    folder: Path
    said: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def hostile(forms: Forms, tmp_path_factory: pytest.TempPathFactory) -> Hostile:
    folder = tmp_path_factory.mktemp("hostile")
    program = (ROOT / "tests" / "targets" / "hostile_graphs.py").read_text()
    return Hostile(folder, in_a_process(program, forms["saved_model"].model, forms["graphdef"].model, folder))


def test_a_hostile_graph_is_refused_before_it_does_anything(hostile: Hostile) -> None:
    for form, messages in hostile.said.items():
        wanted = OF_A_SAVED_MODEL if form == "saved_model" else OF_A_GRAPH
        assert set(messages) == set(wanted)
        for change, message in messages.items():
            assert wanted[change] in message, (form, change, message)
            assert "\n" not in message
    assert not (hostile.folder / "trace").exists()


# ---- predict scripts


@pytest.mark.parametrize("form", FORMATS)
def test_the_script_finds_what_segc_predict_finds_without_segc_and_torch(
    form: str, forms: Forms, tmp_path: Path
) -> None:
    model = forms[form].model
    Standalone(model.parent).finds_what_segc_predict_finds(model, forms.photos[:3], tmp_path)
    # A new user sees the results and nothing of the runtime's own.
    done = segc("predict", forms.photos[0], "--artifact", model, "-o", tmp_path / "again")
    assert done.stderr == "runs in TensorFlow on the CPU\n"


@pytest.mark.parametrize("form", FORMATS)
def test_the_script_refuses_a_strangers_graph_that_would_write_a_file(
    form: str, forms: Forms, hostile: Hostile, tmp_path: Path
) -> None:
    model = {"saved_model": hostile.folder / "saved_model0", "graphdef": hostile.folder / "graphdef0" / "photos.pb"}
    done = Standalone(forms[form].model.parent)(forms.photos[0], "-o", tmp_path / "out", "--model", model[form])
    assert done.returncode == 1
    assert "it has the operation 'WriteFile'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (hostile.folder / "trace").exists()


@pytest.mark.parametrize("form", FORMATS)
def test_the_script_names_a_model_that_is_not_one(form: str, forms: Forms, tmp_path: Path) -> None:
    script = Standalone(forms[form].model.parent)
    for name, message in (("nowhere", "no such model"), ("foreign", "not a model of segc")):
        model = tmp_path / name
        if name == "foreign":
            model.mkdir() if form == "saved_model" else model.write_bytes(b"PK nothing")
        done = script(forms.photos[0], "-o", tmp_path / "out", "--model", model)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr

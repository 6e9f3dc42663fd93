"""What stands beside a Core ML model: the predict script, run against a stand-in for Core ML, and a page about apps."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from segc.arrays import save_arrays
from segc.cli import run
from segc.inference.letterbox import letterbox, to_input
from segc.inference.metadata import LAYOUTS
from segc.inference.sources import find_sources
from tests.targets.conftest import open_here
from tests.targets.standalone import ABSENT, Standalone

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.targets.conftest import Trained

MACOS = "import sys, urllib.request, cv2, numpy\nsys.platform = 'darwin'\n"
"""Run before the script: it believes that it is on macOS, and what would not bear that is imported already."""

CORE_ML = """
import hashlib, json, sys
from pathlib import Path
from types import SimpleNamespace as Values
import numpy as np
from safetensors.numpy import load_file

HERE = Path(__file__).parent

class MLModel:
    def __init__(self, path, compute_units):
        if not (Path(path) / "Manifest.json").is_file():
            raise RuntimeError("the package is invalid\\nand more")
        self.user_defined_metadata = {} if "foreign" in path else {"segc": (HERE / "metadata.json").read_text()}

    def get_spec(self):
        picture = Values(imageType=Values(height=160, width=160))
        outputs = [Values(name=name) for name in json.loads((HERE / "outputs.json").read_text())]
        return Values(description=Values(input=[Values(name="image", type=picture)], output=outputs))

    def predict(self, given):
        ((name, picture),) = given.items()
        assert name == "image" and picture.mode == "RGB"
        return load_file(HERE / (hashlib.sha256(picture.tobytes()).hexdigest() + ".safetensors"))

models = Values(MLModel=MLModel)
ComputeUnit = {"ALL": "ALL"}
"""
"""A stand-in for coremltools: gives what was recorded for a picture, and nothing for any other."""


class OnMacOs(Standalone):
    """A model with its script, run where segc and PyTorch cannot be imported and Core ML is played from recordings."""

    def __init__(self, trained: Trained, folder: Path, photos: list[Path], **options: bool) -> None:
        model = trained.emit("coreml", folder, (160, 160), **options).model
        super().__init__(folder, [*ABSENT, "tensorflow"])
        self.photos, self.model = photos, folder / model
        self.opened = open_here("coreml", self.model)
        (self.blocked / "sitecustomize.py").write_text(MACOS)
        (self.blocked / "coremltools.py").write_text(CORE_ML)
        (self.blocked / "metadata.json").write_text(json.dumps(self.opened.metadata.to_json()))
        (self.blocked / "outputs.json").write_text(json.dumps(LAYOUTS[self.opened.metadata.layout]))
        for source in find_sources(map(str, photos)):
            frame = np.ascontiguousarray(letterbox(source.read(), (160, 160))[0][:, :, ::-1])
            name = hashlib.sha256(frame.tobytes()).hexdigest()
            save_arrays(self.blocked / f"{name}.safetensors", dict(self.opened.raw(to_input(frame))))

    def elsewhere(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Likewise, on the system that this is."""
        (self.blocked / "sitecustomize.py").unlink()
        try:
            return self(*arguments)
        finally:
            (self.blocked / "sitecustomize.py").write_text(MACOS)


@pytest.fixture(scope="module", params=[False, True], ids=["named", "detections"])
def standalone(
    request: pytest.FixtureRequest, trained: Trained, shapes: Path, tmp_path_factory: pytest.TempPathFactory
) -> OnMacOs:
    photos = sorted((shapes / "images" / "train").iterdir())[:3]
    return OnMacOs(trained, tmp_path_factory.mktemp("coreml") / "artifact", photos, nms=request.param)


def test_the_script_finds_what_segc_predict_finds(
    standalone: OnMacOs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = standalone(*standalone.photos, "-o", tmp_path / "theirs", "--save-txt")
    assert done.returncode == 0, done.stderr
    theirs = (tmp_path / "theirs" / "predictions.json").read_text()
    assert sum(len(record["detections"]) for record in json.loads(theirs)) >= 5
    assert theirs.count("Core ML through coremltools, on ALL") == 3
    arguments = ["--artifact", str(standalone.model), "-o", str(tmp_path / "ours"), "--save-json"]
    assert run(["predict", *map(str, standalone.photos), *arguments]) == 0
    capsys.readouterr()
    ours = (tmp_path / "ours" / "predictions.json").read_text()
    assert theirs.replace("Core ML through coremltools, on ALL", standalone.opened.runtime) == ours


def test_what_a_model_has_left_out_by_itself_cannot_be_asked_for(
    standalone: OnMacOs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suppresses = standalone.opened.metadata.max_det is not None
    for option, value in (("--conf", "0.1"), ("--iou", "0.9"), ("--max-det", "301")):
        done = standalone(standalone.photos[0], "-o", tmp_path / "theirs", option, value)
        arguments = ["predict", str(standalone.photos[0]), "--artifact", str(standalone.model), "--no-overlay"]
        status = run([*arguments, option, value])
        said = capsys.readouterr().err
        assert (done.returncode, status) == ((1, 1) if suppresses else (0, 0))
        if suppresses:
            name = option.removeprefix("--").replace("-", "_")
            for text in (done.stderr, said):
                assert f"the model suppresses by itself, with {name} " in text
                assert "Traceback" not in text


def test_a_project_of_lower_confidence_takes_what_the_model_has(
    standalone: OnMacOs, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--project", str(project), "--set", "hyperparameters.conf=0.1", "--no-overlay"]
    assert run(["predict", str(standalone.photos[0]), "--artifact", str(standalone.model), *arguments]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.mlpackage", "no such model"),
        ("empty.mlpackage", "Core ML cannot load it: the package is invalid\n"),
        ("foreign.mlpackage", "not a model of segc: its metadata does not say what it detects"),
    ],
)
def test_a_model_that_cannot_be_run_gives_one_line(
    name: str, message: str, standalone: OnMacOs, tmp_path: Path
) -> None:
    (tmp_path / "empty.mlpackage").mkdir()
    (tmp_path / "foreign.mlpackage").mkdir()
    (tmp_path / "foreign.mlpackage" / "Manifest.json").touch()
    done = standalone(standalone.photos[0], "--model", tmp_path / name)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML is here")
def test_elsewhere_than_on_macos_it_ends_with_one_sentence(standalone: OnMacOs, tmp_path: Path) -> None:
    done = standalone.elsewhere(standalone.photos[0], "-o", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    wanted = "Core ML runs on macOS only: elsewhere `segc predict --artifact` evaluates the model\n"
    assert done.stderr == f"{standalone.model}: {wanted}"
    assert not [*tmp_path.iterdir()]


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML is here")
def test_the_help_is_shown_everywhere(standalone: OnMacOs) -> None:
    assert standalone.elsewhere("--help").returncode == 0


def test_a_missing_package_is_named_with_the_command_that_brings_it(standalone: OnMacOs, tmp_path: Path) -> None:
    stand_in = standalone.blocked / "coremltools.py"
    stand_in.write_text("raise ModuleNotFoundError('no coremltools', name='coremltools')")
    try:
        done = standalone(standalone.photos[0], "-o", tmp_path)
    finally:
        stand_in.write_text(CORE_ML)
    assert done.returncode == 1
    assert done.stderr == "coremltools is missing: pip install numpy opencv-python-headless coremltools pillow\n"


def test_the_page_about_apps_says_what_goes_in_and_what_comes_out(standalone: OnMacOs) -> None:
    text = (standalone.folder / "SWIFT.md").read_text()
    metadata = standalone.opened.metadata
    suppresses = metadata.layout == "detections"
    outputs = {name for name in ("boxes", "scores", "classes", "coefficients", "prototypes") if f"| `{name}` |" in text}
    assert outputs == set(LAYOUTS[metadata.layout])
    assert "| input | `image` | an RGB image, 160 wide and 160 high: " in text
    assert "the rest grey 114; `README.md` has it to the pixel |" in text
    assert "iOS 15, macOS 12 and later" in text
    assert ("[1, 300, 4]" in text) == suppresses
    assert ("func overlap" in text) != suppresses
    swift = text.partition("```swift")[2].partition("```")[0]
    for opening, closing in ("{}", "()", "[]"):
        assert swift.count(opening) == swift.count(closing) >= 5
    assert not [line for line in text.splitlines() if "{%" in line or "{{" in line]

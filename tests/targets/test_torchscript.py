"""The TorchScript target computes what PyTorch computes, and opens nothing that does more than that."""

from __future__ import annotations

import subprocess
import sys
import warnings
import zipfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.backends.xnnpack

from segc.diagnostics import SegcError
from segc.graph.ops import OPERATORS
from segc.graph.passes import half_precision
from segc.inference.metadata import Metadata, ModelError, metadata_text
from segc.network.initialise import initial_weights
from segc.network.session import TorchSession
from segc.targets.registry import refusals
from segc.targets.torchscript import TARGET, guard
from segc.targets.torchscript.lowering import LOWERINGS, lower
from segc.targets.torchscript.runtime import INPUT_SHAPES, METADATA_ENTRY
from tests.conformance.operators import RECIPES, build_recipe
from tests.conformance.refusals import SUPPRESSION
from tests.targets.conftest import agrees, open_here, refusal
from tests.targets.standalone import ABSENT, Standalone

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.targets.conftest import EmitTwice, Trained

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

HAS_XNNPACK = torch.backends.xnnpack.enabled


@pytest.fixture(scope="module")
def model(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.model_here("torchscript", tmp_path_factory.mktemp("torchscript") / "small", (64, 96))


@pytest.mark.parametrize(
    ("size", "half"), [((320, 320), False), ((640, 640), False), ((224, 416), False), ((160, 160), True)]
)
def test_a_model_agrees_with_torch(
    size: tuple[int, int],
    half: bool,
    trained: Trained,
    reference: TorchSession,
    photographs: np.ndarray,
    tmp_path: Path,
) -> None:
    session = open_here("torchscript", trained.model_here("torchscript", tmp_path / "m", size, half=half))
    precision = "fp16" if half else "fp32"
    assert session.metadata.precision == precision
    assert session.runtime == f"PyTorch {torch.__version__} on the CPU, TorchScript"
    agrees(session, reference, photographs[:1, :, : size[0], : size[1]], precision)


def test_every_operator_but_free_anchors_is_lowered() -> None:
    assert set(OPERATORS) - set(LOWERINGS) == {"anchor_points", "fake_quantize"}


@pytest.mark.parametrize("name", [n for n in RECIPES if n not in ("anchor_points and boxes", *SUPPRESSION)])
def test_an_operator_in_half_precision_is_close_to_torch(name: str) -> None:
    graph = build_recipe(name)
    weights = initial_weights(graph.parameters, 0)
    images = np.random.default_rng(1).random((1, 3, 11, 7), np.float32)
    (ours,) = lower(*half_precision(graph, weights))(torch.from_numpy(images)).values()
    (theirs,) = TorchSession(graph, weights, Metadata(("a",), (64, 64))).run(images).values()
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-2, atol=5e-3)


def test_half_precision_stops_at_the_decode_region(trained: Trained, tmp_path: Path) -> None:
    module = torch.jit.load(trained.model_here("torchscript", tmp_path / "m", (64, 64), half=True))
    stored = {name: value.dtype for name, value in module.named_buffers()}
    single = {"model_22_dfl_conv_weight", "model_22_boxes_anchors_0", "model_22_boxes_anchors_1"}
    assert {name for name, dtype in stored.items() if dtype == torch.float32} == single
    assert {dtype for name, dtype in stored.items() if name not in single} == {torch.float16}
    assert {value.dtype for value in module(torch.zeros(1, 3, 64, 64)).values()} == {torch.float32}


@pytest.mark.parametrize("options", [{}, {"half": True}], ids=["full", "half"])
def test_the_same_input_gives_the_same_bytes_in_every_process(options: dict[str, Any], emit_twice: EmitTwice) -> None:
    assert "photos.torchscript" in emit_twice("torchscript", **options)


def test_the_archive_holds_readable_text_and_no_path_of_this_machine(model: Path) -> None:
    with zipfile.ZipFile(model) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".py")]
        program = archive.read(name).decode()
        everything = b"".join(archive.read(name) for name in archive.namelist())
    assert "    model_2_m_0_add = torch.add(model_2_split_1, model_2_m_0_cv2_act)\n" in program
    assert "batch_norm" not in program
    assert str(Path(torch.__file__).parent).encode() not in everything
    assert str(Path(__file__).parents[2]).encode() not in everything


def test_weights_can_be_moved_and_listed(model: Path) -> None:
    module = torch.jit.load(model)
    names = {name for name, _ in module.named_buffers()}
    assert {"model_0_conv_weight", "model_0_conv_bias", "model_22_proto_upsample_weight"} <= names
    assert module.double()(torch.zeros(1, 3, 64, 96, dtype=torch.float64))["boxes"].shape == (1, 126, 4)


def test_nothing_is_said_of_deprecation(model: Path, recwarn: pytest.WarningsRecorder) -> None:
    open_here("torchscript", model).run(np.zeros((1, 3, 64, 96), np.float32))
    assert not recwarn.list


def test_metadata_are_in_the_archive_under_any_name(trained: Trained, model: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "other.name.torchscript"
    renamed.write_bytes(model.read_bytes())
    assert open_here("torchscript", renamed).metadata == trained.metadata((64, 96), segc_version="0")


def test_optimising_and_half_precision_exclude_each_other() -> None:
    (refusal,) = refusals(TARGET.options(format="torchscript", optimize=True, half=True), (64, 64))
    assert refusal == (("half",), "the convolutions that optimize puts in compute in fp32: leave one of the two out")


@pytest.mark.skipif(HAS_XNNPACK, reason="this PyTorch has XNNPACK")
def test_without_xnnpack_optimising_is_refused_with_a_way_out(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(SegcError) as caught:
        trained.model_here("torchscript", tmp_path / "m", (64, 64), optimize=True)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "T003"
    assert f"this build of PyTorch ({torch.__version__}) has no XNNPACK" in diagnostic.message
    assert "torch 2.12" in (diagnostic.help or "")
    assert not [*(tmp_path / "m").iterdir()]


@pytest.mark.parametrize(("name", "let_through"), [("constants/0.storage", True), ("constants/a.storage", False)])
def test_constants_as_the_mobile_interpreter_reads_them_are_let_through(
    name: str, let_through: bool, tmp_path: Path
) -> None:
    """PyTorch that has XNNPACK writes them under other names."""
    path = tmp_path / "m.torchscript"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"m/{name}", bytes(4))
    with nullcontext() if let_through else pytest.raises(SegcError, match=f"its archive holds 'm/{name}'"):
        guard.check(path)


@pytest.mark.skipif(not HAS_XNNPACK, reason="this PyTorch has no XNNPACK: its packages since 2.13 come without")
def test_an_optimised_model_agrees_with_torch_and_is_for_the_mobile_interpreter(
    trained: Trained, reference: TorchSession, photographs: np.ndarray, tmp_path: Path
) -> None:
    path = trained.model_here("torchscript", tmp_path / "m", (320, 320), optimize=True)
    agrees(open_here("torchscript", path), reference, photographs[:1, :, :320, :320])
    with zipfile.ZipFile(path) as archive:
        assert "photos/bytecode.pkl" in archive.namelist()
        programs = b"".join(archive.read(name) for name in archive.namelist() if name.endswith(".py"))
    assert b"ops.prepacked.conv2d_clamp_run" in programs


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None], **more: bytes) -> None:
    """Rewrite an archive's entries one by one; None drops one."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in entries:
            if (new := change(info.filename, content)) is not None:
                archive.writestr(info.filename, new)
        for name, content in more.items():
            entry = zipfile.ZipInfo()
            entry.filename = name  # as it is: a zero would be seen by what makes an entry
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of names that are there already
                archive.writestr(entry, content, zipfile.ZIP_DEFLATED)


def in_program(old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(name: str, content: bytes) -> bytes:
        if name.endswith(".py"):
            assert old in content
            return content.replace(old, new, 1)
        return content

    return lambda path: rewritten(path, change)


def in_metadata(new: bytes | None) -> Callable[[Path], None]:
    return lambda path: rewritten(path, lambda name, old: new if name.endswith("segc.json") else old)


def with_entry(name: str, content: bytes = b"def f():\n  exec('1')\n") -> Callable[[Path], None]:
    return lambda path: rewritten(path, lambda _, old: old, **{name: content})


def claiming(**values: Any) -> Callable[[Path], None]:
    """Other metadata than the model's own."""
    metadata = replace(Metadata(tuple(f"class {index}" for index in range(6)), (64, 96)), **values)
    return in_metadata(metadata_text(metadata).encode())


def _with_a_second_directory(path: Path) -> None:
    """Two archives one after another: PyTorch reads the first one's directory, Python's reader the second one's."""
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".py")]
    rewritten(path, lambda _, old: old)
    second = path.read_bytes()
    rewritten(path, lambda entry, old: old.replace(b"torch.add(", b"torch.sub(") if entry == name else old)
    first = path.read_bytes()
    assert len(first) == len(second)
    path.write_bytes(first[:-22] + second)
    assert b"torch.add(" not in torch._C.PyTorchFileReader(str(path)).get_record(name.partition("/")[2])
    with zipfile.ZipFile(path) as archive:
        assert b"torch.add(" in archive.read(name)


def _giving_a_tensor(path: Path) -> None:
    in_program(b"Dict[str, Tensor]:", b"Tensor:")(path)
    in_program(b"    return _", b"    return boxes  # _")(path)


RETURN = b"    return _"
CLASS = b"  def forward"
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "writes a file": (in_program(RETURN, b"    torch.save(boxes, '/tmp/owned')\n" + RETURN), "torch.save(boxes"),
    "reads a file": (in_program(RETURN, b"    x = torch.from_file('/etc/passwd')\n" + RETURN), "torch.from_file"),
    "calls a method": (in_program(RETURN, b"    x = boxes.save('/tmp/owned')\n" + RETURN), "boxes.save"),
    "calls an operator": (in_program(RETURN, b"    x = ops.aten.save(boxes, 'x')\n" + RETURN), "ops.aten.save"),
    "loops": (in_program(RETURN, b"    while True:\n      pass\n" + RETURN), "while True"),
    "runs when it is loaded": (
        in_program(CLASS, b"  def __setstate__(self, state: Tensor) -> NoneType:\n    return None\n" + CLASS),
        "def __setstate__",
    ),
    "imports": (in_program(b"class Network", b"import os\nclass Network"), "import os"),
    "is no text": (in_program(b"class Network", b"class ((((\xff"), "cannot be read"),
    "is far too deep": (in_program(RETURN, b"    x = " + b"[" * 3000 + b"]" * 3000 + b"\n" + RETURN), "cannot be read"),
    "has a second program": (with_entry("photos/code/__torch__/more.py"), "def f()"),
    "has a program in capitals": (with_entry("photos/CODE/__torch__/more.py"), "its archive holds 'photos/CODE/__t"),
    "has a program at another place": (with_entry("photos/code/more.py"), "its archive holds 'photos/code/more.py'"),
    "has a program of an older layout": (with_entry("photos/model.json"), "its archive holds 'photos/model.json'"),
    "has a name twice": (with_entry("photos/data.pkl"), "holds a name twice"),
    "has a name twice but for case": (with_entry("photos/Data.pkl"), "holds a name twice"),
    "has backslashes for slashes": (with_entry("photos/code\\__torch__\\m.py"), "its archive holds 'photos/code"),
    "has a backslash in its folder": (with_entry("photos\\code/__torch__/m.py"), "several folders"),
    "has a path upwards": (with_entry("photos/../code/__torch__/m.py"), "its archive holds 'photos/../code"),
    "has a name that is cut at a zero": (with_entry("photos/data/9999\0.py"), "its archive holds 'photos/data/9999"),
    "has a second directory": (_with_a_second_directory, "damaged: not a TorchScript archive"),
    "begins with something else": (
        lambda path: path.write_bytes(b"\0\0\0\0PTMF" + path.read_bytes()),
        "damaged: not a TorchScript archive",
    ),
    "ends with something else": (
        lambda path: path.write_bytes(path.read_bytes() + b"more"),
        "damaged: not a TorchScript archive",
    ),
    "swells": (with_entry("photos/data/9999", bytes(40_000_000)), "far larger than the file"),
    "has two roots": (with_entry("other/data/0"), "holds a name twice, or several folders"),
    "says nothing of itself": (in_metadata(None), "not a model of segc"),
    "says it wrongly": (in_metadata(b"[]"), "not a model of segc"),
    "claims another layout": (claiming(layout="fused"), "its outputs are 'boxes, coefficients, prototypes, scores'"),
    "claims to suppress": (claiming(layout="detections", conf=0.5, iou=0.5, max_det=9), "its outputs are 'boxes, "),
    "has two inputs": (in_program(b"images: Tensor)", b"images: Tensor,\n    more: Tensor)"), "it has 2 inputs"),
    "gives no dictionary": (_giving_a_tensor, "its outputs are ''"),
    "lacks its weights": (
        lambda path: rewritten(path, lambda name, old: None if name.endswith("data/7") else old),
        "PyTorch cannot load it",
    ),
    "has a version that is no text": (
        lambda path: rewritten(path, lambda name, old: b"\xfc\n" if name.endswith("version") else old),
        "PyTorch cannot load it",
    ),
    "refers to what is not there": (
        lambda path: rewritten(path, lambda name, old: old.replace(b"h\x03", b"h\xf7") if "data.pkl" in name else old),
        "PyTorch cannot load it",
    ),
    "is cut": (lambda path: path.write_bytes(path.read_bytes()[:-500]), "damaged: not a TorchScript archive"),
    "is empty": (lambda path: path.write_bytes(b""), "damaged: not a TorchScript archive"),
    "is another file": (lambda path: path.write_bytes(b"\x08\x0a" * 5000), "damaged: not a TorchScript archive"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_archive_that_is_damaged_or_does_more_than_compute_is_not_loaded(
    kind: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm, message = HOSTILE[kind]
    harm(copy)
    loaded = []
    load = torch.jit.load
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: loaded.append(a) or load(*a, **k))
    with pytest.raises(SegcError, match="T006") as caught:
        open_here("torchscript", copy)
    assert message in caught.value.diagnostics[0].message
    assert bool(loaded) == (kind in FOUND_BY_THE_RUNTIME)


FOUND_BY_THE_RUNTIME = {
    "says nothing of itself",
    "says it wrongly",
    "claims another layout",
    "claims to suppress",
    "has two inputs",
    "gives no dictionary",
    "lacks its weights",
    "has a version that is no text",
    "refers to what is not there",
}


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (640, 640)])
def test_a_size_that_is_not_the_archives_own_is_seen_before_it_runs(size: tuple[int, int], copy: Path) -> None:
    claiming(imgsz=size)(copy)
    assert refusal(copy) == f"its input is [1, 3, 64, 96], and its metadata speak of {[1, 3, *size]}"


def test_images_of_another_size_end_in_one_line(model: Path) -> None:
    with pytest.raises(ModelError, match="PyTorch cannot run it: RuntimeError: ") as caught:
        open_here("torchscript", model).run(np.zeros((1, 3, 64, 64), np.float32))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ("a", "PyTorch cannot load it"),
        ([64, 96], "PyTorch cannot load it"),
        ([["a"]], "PyTorch cannot load it"),
        ([[1, 3, 64, 96], [1]], "it has 2 inputs"),
    ],
    ids=str,
)
def test_sizes_that_are_none_are_refused(shapes: Any, said: str, copy: Path) -> None:
    extra = {METADATA_ENTRY: ""}
    torch.jit.load(copy, "cpu", extra)
    holder = torch.nn.Module()
    setattr(holder, INPUT_SHAPES, shapes)
    stranger = torch.jit.script(holder)
    stranger.define('def forward(self, images: Tensor) -> Dict[str, Tensor]:\n    return {"boxes": images}\n')
    stranger.save(copy, _extra_files=extra)
    assert said in refusal(copy)


def test_a_model_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model"):
        TARGET.opener(tmp_path / "m.torchscript")(tmp_path / "m.torchscript", 1)


def test_a_checkpoint_that_is_no_torchscript_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.torchscript"
    torch.save({"weight": torch.zeros(3)}, path)
    assert refusal(path).startswith("not a model of segc")


DAMAGED = """
import random, sys, zipfile
from pathlib import Path
import numpy as np
from segc.diagnostics import SegcError
from segc.inference.metadata import ModelError
from segc.targets.torchscript import guard, runtime

good, bad = map(Path, sys.argv[1:])
with zipfile.ZipFile(good) as archive:
    entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
harmed = [name for name, _ in entries if name.endswith((".pkl", ".py", "version", "segc.json"))]
for seed in range(24):
    chance = random.Random(seed)
    victim = chance.choice(harmed)
    with zipfile.ZipFile(bad, "w") as archive:
        for name, content in entries:
            changed = bytearray(content)
            for _ in range(chance.randint(1, 6) if name == victim else 0):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
            archive.writestr(name, bytes(changed))
    try:
        guard.check(bad)
        runtime.open_model(bad, 1).run(np.zeros((1, 3, 64, 96), np.float32))
        print("runs", flush=True)
    except (ModelError, SegcError) as error:
        print("refused", flush=True)
        assert len(str(error).splitlines()) == 1, str(error)
"""
"""Archives with a few bytes changed, checksums made good again: whatever PyTorch makes of them is told in one line."""


def test_an_archive_with_changed_bytes_runs_or_is_refused_in_one_line(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", DAMAGED, str(model), str(tmp_path / "bad.torchscript")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.splitlines()
    assert len(told) == 24
    assert told.count("refused") > 12


@pytest.fixture(scope="module")
def standalone(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Standalone:
    folder = tmp_path_factory.mktemp("standalone") / "torchscript"
    trained.emit("torchscript", folder, (160, 160))
    return Standalone(folder, [*(module for module in ABSENT if module != "torch"), "onnxruntime"])


def test_the_script_finds_what_segc_predict_finds(standalone: Standalone, shapes: Path, tmp_path: Path) -> None:
    photos = sorted((shapes / "images" / "train").iterdir())[:3]
    standalone.finds_what_segc_predict_finds(standalone.folder / "photos.torchscript", photos, tmp_path)


@pytest.mark.parametrize("kind", ["says nothing of itself", "is cut", "lacks its weights"])
def test_the_script_refuses_a_damaged_model_in_one_line(kind: str, standalone: Standalone, copy: Path) -> None:
    HOSTILE[kind][0](copy)
    done = standalone("predict.py", "--model", copy)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert str(copy) in done.stderr

"""Checkpoints made to do harm: refused with one clear error, and nothing in them runs."""

import copyreg
import pickle
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segc.diagnostics import SegcError
from segc.weights import inert
from segc.weights.checkpoint import read_checkpoint

from .conftest import Archive, archive_bytes


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def a_global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def stack_global(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def one(argument: bytes) -> bytes:
    return argument + b"\x85"


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that hostile streams try to make."""
    return tmp_path / "canary"


def refused(path: Path, canary: Path) -> SegcError:
    with pytest.raises(SegcError) as caught:
        read_checkpoint(path)
    assert not canary.exists()
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.file == path
    assert diagnostic.code == "W003", diagnostic.message
    return caught.value


CALLS = (
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("os", "popen"),
    ("subprocess", "Popen"),
    ("subprocess", "check_output"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("__builtin__", "eval"),
    ("builtins", "compile"),
    ("builtins", "open"),
    ("builtins", "__import__"),
    ("builtins", "getattr.__self__.eval"),
    ("builtins", "setattr"),
    ("builtins", "type"),
    ("importlib", "import_module"),
    ("functools", "partial"),
    ("operator", "attrgetter"),
    ("operator", "methodcaller"),
    ("pickle", "loads"),
    ("numpy", "load"),
    ("runpy", "run_path"),
    ("shutil", "rmtree"),
    ("copyreg", "_reconstructor"),
    ("torch", "load"),
    ("torch", "save"),
    ("torch", "float32"),
    ("torch", "FloatStorage"),
    ("torch.storage", "_load_from_bytes"),
    ("torch.hub", "load"),
    ("torch.serialization", "load"),
    ("torch.nn.modules", "os.system"),
    ("torch.nn.modules.module", "Module.__class__"),
    ("torch.nn", "modules.module.os.system"),
    ("torch.nn.modules.module", "_addindent"),
    ("ultralytics.utils.downloads", "safe_download"),
    ("ultralytics.utils", "os.system"),
    ("ultralytics_evil", "Model"),
    ("torch.nn.modulesx", "Evil"),
    ("", "eval"),
    ("os.path", ""),
)


@pytest.mark.parametrize(("module", "name"), CALLS)
@pytest.mark.parametrize("form", [a_global, stack_global])
def test_a_call_outside_of_the_list_is_refused(
    archive: Archive, canary: Path, module: str, name: str, form: Any
) -> None:
    stream = b"\x80\x04" + form(module, name) + one(text(f"touch {canary}")) + b"R."
    refused(archive(stream), canary)


class _Payload:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_what_pickle_itself_makes_of_a_payload_is_refused(archive: Archive, canary: Path, protocol: int) -> None:
    import os

    for call in ((os.system, f"touch {canary}"), (eval, f"open({str(canary)!r}, 'w')"), (Path.touch, canary)):
        stream = pickle.dumps({"model": {"a": _Payload(*call)}}, protocol)
        error = refused(archive(stream), canary)
        assert "nothing was run" in str(error)


def test_the_error_names_what_was_asked_for(archive: Archive, canary: Path) -> None:
    error = refused(archive(b"\x80\x02" + a_global("os", "system") + one(text("true")) + b"R."), canary)
    assert "os.system" in str(error)


LAYER = a_global("torch.nn.modules.conv", "Conv2d") + b")\x81"


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(a_global("builtins", "getattr") + LAYER + text("__class__") + b"\x86R", id="dunder"),
        pytest.param(a_global("builtins", "getattr") + LAYER + text("a.b") + b"\x86R", id="dotted"),
        pytest.param(
            a_global("builtins", "getattr") + a_global("builtins", "object") + text("mro") + b"\x86R", id="of a class"
        ),
        pytest.param(
            a_global("builtins", "getattr") + LAYER + text("forward") + b"\x86R" + one(text("touch")) + b"R",
            id="calling what getattr gave",
        ),
        pytest.param(
            a_global("builtins", "getattr")
            + (a_global("builtins", "getattr") + LAYER + text("forward") + b"\x86R")
            + text("func")
            + b"\x86R",
            id="getattr on what getattr gave",
        ),
        pytest.param(LAYER + one(text("x")) + b"R", id="calling an instance"),
        pytest.param(text("eval") + one(text("x")) + b"R", id="calling a text"),
        pytest.param(a_global("builtins", "set") + b"]R", id="arguments that are no tuple"),
        pytest.param(LAYER + b")\x81", id="instance of an instance"),
        pytest.param(a_global("torch", "Size") + b")\x81", id="instance of a function"),
        pytest.param(a_global("torch.nn.modules.conv", "Conv2d") + b"}b", id="state set on a class"),
        pytest.param(a_global("collections", "OrderedDict") + one(b"]") + b"R", id="filled by its constructor"),
        pytest.param(a_global("torch._utils", "_rebuild_tensor_v2") + b"}b", id="state set on a function"),
        pytest.param(b"]}b", id="state set on a list"),
        pytest.param(
            a_global("torch._tensor", "_rebuild_from_type_v2")
            + b"("
            + a_global("builtins", "set")
            + a_global("torch.nn.parameter", "Parameter")
            + b")}tR",
            id="tensor rebuilt by a constructor",
        ),
        pytest.param(b"(" + text("touch") + b"ios\nsystem\n", id="INST"),
        pytest.param(b"(" + a_global("torch.nn.modules.conv", "Conv2d") + b"o", id="OBJ"),
        pytest.param(b"\x82\xf0", id="EXT1"),
        pytest.param(b"\x83\xf0\x00", id="EXT2"),
        pytest.param(b"\x84\xf0\x00\x00\x00", id="EXT4"),
        pytest.param(b"Pos.system\n", id="PERSID"),
        pytest.param(text("os.system") + b"Q", id="persistent text"),
        pytest.param(b"(" + text("module") + LAYER + text("0") + text("cpu") + b"K\x01tQ", id="other persistent"),
        pytest.param(
            b"(" + text("storage") + a_global("builtins", "set") + text("0") + text("cpu") + b"K\x01tQ",
            id="storage of another class",
        ),
        pytest.param(b"\x97", id="out-of-band buffer"),
        pytest.param(b"S'a'\n", id="protocol 0"),
    ],
)
def test_tricks_with_what_is_on_the_list_are_refused(archive: Archive, canary: Path, stream: bytes) -> None:
    refused(archive(b"\x80\x04" + stream + b"."), canary)


def test_registered_extension_codes_are_refused_too(archive: Archive, canary: Path) -> None:
    copyreg.add_extension("os", "system", 0xF0)
    try:
        stream = b"\x80\x02\x82\xf0" + one(text(f"touch {canary}")) + b"R."
        refused(archive(stream), canary)
    finally:
        copyreg.remove_extension("os", "system", 0xF0)


def test_setting_state_only_files_it() -> None:
    state = b"}" + text("__setstate__") + a_global("builtins", "set") + b"s"
    state += text("__class__") + a_global("builtins", "object") + b"s"
    instance = inert.read(b"\x80\x02" + LAYER + state + b"b" + state + b"b.")
    assert type(instance) is inert.Instance
    assert instance.path == "torch.nn.modules.conv.Conv2d"
    assert list(instance.state.texts()) == ["__setstate__", "__class__"]


TENSOR = (
    a_global("torch._utils", "_rebuild_tensor_v2")
    + b"("
    + (b"(" + text("storage") + a_global("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x04tQ")
)


def tensor(offset: int, shape: bytes, stride: bytes) -> bytes:
    number = b"\x8a\x08" + struct.pack("<q", offset)
    state = b"}" + text("w") + TENSOR + number + shape + stride + b"\x89}tRs"
    return b"\x80\x02" + state + b"."


@pytest.mark.parametrize(
    "stream",
    [
        tensor(1, b"K\x04\x85", b"K\x01\x85"),
        tensor(0, b"K\x04\x85", b"K\x02\x85"),
        tensor(0, b"K\x05\x85", b"K\x00\x85"),
        tensor(-1, b"K\x01\x85", b"K\x01\x85"),
        tensor(2**62, b"K\x01\x85", b"K\x01\x85"),
        tensor(0, b"J\xff\xff\xff\xff\x85", b"K\x01\x85"),
        tensor(0, b"K\x02\x85", b"J\xff\xff\xff\xff\x85"),
        tensor(0, b"K\x02K\x02\x86", b"K\x01\x85"),
        tensor(0, b"]", b"]"),
        tensor(0, b"(" + b"K\x01" * 40 + b"t", b"(" + b"K\x01" * 40 + b"t"),
    ],
)
def test_tensors_that_reach_beyond_their_storage_are_refused(archive: Archive, stream: bytes) -> None:
    with pytest.raises(SegcError) as caught:
        read_checkpoint(archive(stream, {"0": bytes(16)}))
    assert caught.value.diagnostics[0].code == "W002"


def test_the_same_stream_with_a_tensor_in_bounds_is_read(archive: Archive) -> None:
    path = archive(tensor(1, b"K\x03\x85", b"K\x01\x85"), {"0": struct.pack("<4f", 1, 2, 3, 4)})
    assert read_checkpoint(path).tensors["w"].tolist() == [2, 3, 4]


@pytest.mark.parametrize("storages", [{}, {"0": bytes(15)}, {"0": bytes(17)}, {"1": bytes(16)}])
def test_storages_that_are_missing_or_of_another_length_are_refused(
    archive: Archive, storages: dict[str, bytes]
) -> None:
    with pytest.raises(SegcError) as caught:
        read_checkpoint(archive(tensor(0, b"K\x01\x85", b"K\x01\x85"), storages))
    assert caught.value.diagnostics[0].code == "W002"


def test_a_storage_key_cannot_leave_the_archive(archive: Archive) -> None:
    stream = tensor(0, b"K\x01\x85", b"K\x01\x85").replace(text("0"), text("../../../../etc/hostname"))
    with pytest.raises(SegcError) as caught:
        read_checkpoint(archive(stream))
    assert caught.value.diagnostics[0].code == "W002"


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.pt"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("it/data.pkl", b"\x80\x02N.")
        with pytest.warns(UserWarning, match="Duplicate"):
            made.writestr("it/data.pkl", b"\x80\x02}.")
    with pytest.raises(SegcError, match="same name"):
        read_checkpoint(path)


def test_a_pickle_beyond_the_bound_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inert, "MAX_PICKLE_BYTES", 10)
    path = tmp_path / "large.pt"
    path.write_bytes(archive_bytes(b"\x80\x02" + b"N" * 20 + b"."))
    with pytest.raises(SegcError) as caught:
        read_checkpoint(path)
    assert caught.value.diagnostics[0].code == "W004"


def test_endless_streams_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inert, "MAX_OPCODES", 1000)
    with pytest.raises(inert.TooLarge):
        inert.read(b"\x80\x02" + b"N0" * 1000 + b"N.")


def module_of(children: bytes) -> bytes:
    """A layer with the given (name, module) entries."""
    return LAYER + b"}" + text("_modules") + b"}(" + children + b"usb"


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(
            b"\x80\x02N"
            + b"".join(b"q\x00" + module_of(text("a") + b"h\x00" + text("b") + b"h\x00") for _ in range(60)),
            id="every module twice in the next",
        ),
        pytest.param(
            b"\x80\x02" + LAYER + b"q\x00}" + text("_modules") + b"}" + text("a") + b"h\x00ssb", id="a module in itself"
        ),
        pytest.param(
            b"\x80\x02" + b")" + b"q\x00h\x00\x86" * 100 + b"q\x01}h\x01Nsq\x02" + b"h\x01Ns",
            id="a tuple that never ends hashing",
        ),
        pytest.param(b"\x80\x02" + b"]q\x00" + b"h\x00a" * 3 + b"]h\x00a" * 500, id="lists in lists"),
        pytest.param(b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000, id="a deep tuple"),
        pytest.param(b"\x80\x02N" + b"\x85" * 500_000, id="a deeper tuple"),
    ],
)
def test_structures_that_blow_up_are_read_or_refused_in_little_time(archive: Archive, stream: bytes) -> None:
    started = time.process_time()
    with pytest.raises(SegcError) as caught:
        read_checkpoint(archive(stream + b"."))
    assert caught.value.diagnostics[0].code in {"W002", "W003", "W004", "W006"}
    # Not a matter of speed: without a bound, some of these take longer than anybody lives.
    assert time.process_time() - started < 60


def attempt(path: Path) -> None:
    """Read it, or be told clearly why not; any other exception fails the test."""
    try:
        read_checkpoint(path)
    except SegcError as error:
        (diagnostic,) = error.diagnostics
        assert diagnostic.message.isprintable()


def sound() -> tuple[bytes, dict[str, bytes]]:
    """A small stream with everything a checkpoint has in it."""
    parameter = tensor(0, b"K\x02K\x02\x86", b"K\x02K\x01\x86")[2:-1]
    module = module_of(text("0") + LAYER + b"}" + text("_parameters") + parameter + text("training") + b"\x88ssb")
    names = text("names") + b"}(K\x00" + text("cat") + b"K\x01" + text("dog") + b"u"
    return b"\x80\x04}(" + text("model") + module + names + text("license") + text("MIT") + b"u.", {"0": bytes(16)}


def test_the_sound_stream_is_sound(archive: Archive) -> None:
    read = read_checkpoint(archive(*sound()))
    assert list(read.tensors) == ["0.w"]
    assert (read.names, read.license) == (("cat", "dog"), "MIT")


QUICK = settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUICK
@given(data=st.data())
def test_any_change_of_the_pickle_gives_data_or_a_clear_error(archive: Archive, data: st.DataObject) -> None:
    stream, storages = sound()
    changed = bytearray(stream)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    attempt(archive(bytes(changed), storages))


@QUICK
@given(data=st.data())
def test_any_change_of_the_archive_gives_data_or_a_clear_error(tmp_path: Path, data: st.DataObject) -> None:
    changed = bytearray(archive_bytes(*sound()))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "changed.pt"
    path.write_bytes(changed[: data.draw(st.integers(0, len(changed)))] if data.draw(st.booleans()) else changed)
    attempt(path)


@QUICK
@given(stream=st.lists(st.sampled_from([bytes([code]) for code in range(256)] + [text("a"), LAYER, b"K\x00"])))
def test_any_stream_gives_data_or_a_clear_error(archive: Archive, stream: list[bytes]) -> None:
    attempt(archive(b"\x80\x04" + b"".join(stream) + b"."))

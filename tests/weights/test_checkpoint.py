"""Checkpoints that PyTorch wrote are read as PyTorch would read them."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from segc.diagnostics import SegcError
from segc.weights import checkpoint
from segc.weights.checkpoint import read_checkpoint

COCO_FIRST_AND_LAST = ("person", "bicycle", "hair drier", "toothbrush")


def saved(tmp_path: Path, value: Any, **options: Any) -> Path:
    path = tmp_path / "saved.pt"
    torch.save(value, path, **options)
    return path


def code_of(path: Path) -> str:
    with pytest.raises(SegcError) as caught:
        read_checkpoint(path)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.file == path
    return diagnostic.code


class Network(nn.Module):
    """Buffers listed and not, a shared layer, nested containers."""

    def __init__(self) -> None:
        super().__init__()
        shared = nn.Conv2d(3, 3, 1)
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ModuleList([shared, shared]))
        self.scale = nn.Parameter(torch.randn(2))
        self.register_buffer("listed", torch.arange(3))
        self.register_buffer("unlisted", torch.arange(4), persistent=False)
        self.register_buffer("absent", None)


# Pickled under the name of a package whose classes a module tree may hold.
Network.__module__, Network.__qualname__ = "ultralytics.nn.tasks", "Network"


@pytest.fixture
def whole_module(monkeypatch: pytest.MonkeyPatch) -> Network:
    """A module whose class can be found by pickle when saving, and by no one later."""
    import sys
    import types

    for name in ("ultralytics", "ultralytics.nn", "ultralytics.nn.tasks"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["ultralytics.nn.tasks"].Network = Network  # type: ignore[attr-defined]
    return Network()


def test_the_recorded_checkpoint_gives_every_tensor_and_name(peer: Path) -> None:
    read = read_checkpoint(peer / "overfit32_last.pt")
    assert len(read.tensors) == 417
    assert read.names is not None
    assert (*read.names[:2], *read.names[-2:]) == COCO_FIRST_AND_LAST
    assert len(read.names) == 80
    assert read.license == "AGPL-3.0 (https://ultralytics.com/license)"
    assert read.producer == "ultralytics.nn.tasks.SegmentationModel, version 8.4.190"
    assert read.notes == ("weights taken from `model`",)
    assert {array.dtype.name for array in read.tensors.values()} == {"float32", "int64"}


def test_the_recorded_checkpoint_gives_the_values_that_lie_in_its_storages(peer: Path) -> None:
    path = peer / "overfit32_last.pt"
    tensors = read_checkpoint(path).tensors
    with zipfile.ZipFile(path) as archive:
        first = np.frombuffer(archive.read("overfit32_last/data/0"), "<f2")
        batches = np.frombuffer(archive.read("overfit32_last/data/5"), "<i8")
    assert np.array_equal(tensors["model.0.conv.weight"], first.astype(np.float32).reshape(16, 3, 3, 3))
    assert tensors["model.0.bn.num_batches_tracked"] == batches[0]
    assert np.array_equal(tensors["model.22.dfl.conv.weight"].ravel(), np.arange(16))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_whole_module_gives_its_state_dict(tmp_path: Path, whole_module: Network, protocol: int) -> None:
    path = saved(tmp_path, {"model": whole_module, "ema": None, "epoch": 3}, pickle_protocol=protocol)
    expected = whole_module.state_dict()
    read = read_checkpoint(path)
    assert list(read.tensors) == list(expected)
    for name, tensor in expected.items():
        assert np.array_equal(read.tensors[name], tensor.numpy()), name
        assert read.tensors[name].shape == tuple(tensor.shape)


def test_a_bound_method_on_a_module_is_no_obstacle(tmp_path: Path, whole_module: Network) -> None:
    whole_module.predict = whole_module.eval  # type: ignore[assignment]
    assert "listed" in read_checkpoint(saved(tmp_path, whole_module)).tensors


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state},
        lambda state: {"state_dict": state, "epoch": 1},
        lambda state: {"ema": {"module": state}, "model": {}},
        lambda state: {"ema": None, "model": state},
        lambda state: {"ema": {}, "net": state},
        lambda state: {"ema_state_dict": state},
    ],
)
def test_plain_state_dicts_are_found(tmp_path: Path, wrap: Any) -> None:
    state = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()
    read = read_checkpoint(saved(tmp_path, wrap(state)))
    assert list(read.tensors) == list(state)
    assert all(np.array_equal(read.tensors[name], tensor.numpy()) for name, tensor in state.items())


def test_averaged_weights_are_preferred(tmp_path: Path) -> None:
    read = read_checkpoint(saved(tmp_path, {"model": {"a": torch.zeros(1)}, "ema": {"a": torch.ones(1)}}))
    assert read.tensors["a"] == 1
    assert read.notes == ("weights taken from `ema`",)


def test_strided_views_of_a_shared_storage_are_read_right(tmp_path: Path) -> None:
    base = torch.arange(60.0).reshape(3, 4, 5)
    state = {
        "whole": base,
        "transposed": base.permute(2, 0, 1),
        "part": base[1:, ::2, 3],
        "scalar": base[2, 3, 4],
        "empty": base[:0],
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    tensors = read_checkpoint(saved(tmp_path, state)).tensors
    for name, tensor in state.items():
        assert tensors[name].shape == tuple(tensor.shape)
        assert tensors[name].flags.c_contiguous
        assert np.array_equal(tensors[name], tensor.numpy()), name


@pytest.mark.parametrize(
    ("dtype", "read_as"),
    [
        (torch.float64, "float32"),
        (torch.float32, "float32"),
        (torch.float16, "float32"),
        (torch.bfloat16, "float32"),
        (torch.int64, "int64"),
        (torch.int32, "int64"),
        (torch.int16, "int64"),
        (torch.int8, "int64"),
        (torch.uint8, "int64"),
        (torch.bool, "int64"),
    ],
)
def test_every_element_type_is_read_as_float32_or_int64(tmp_path: Path, dtype: torch.dtype, read_as: str) -> None:
    tensor = torch.tensor([0, 1, 1, 0, 1]).to(dtype)
    if dtype.is_floating_point:
        tensor = tensor * 1.2345
    read = read_checkpoint(saved(tmp_path, {"a": tensor})).tensors["a"]
    assert read.dtype.name == read_as
    assert np.array_equal(read, tensor.to(torch.float32 if read_as == "float32" else torch.int64).numpy())


def test_tensors_are_no_views_of_each_other(tmp_path: Path) -> None:
    shared = torch.zeros(3)
    tensors = read_checkpoint(saved(tmp_path, {"a": shared, "b": shared})).tensors
    tensors["a"][0] = 1
    assert tensors["b"][0] == 0


@pytest.mark.parametrize("names", [["cat", "dog"], {0: "cat", 1: "dog"}, {1: "dog", 0: "cat"}, ("cat", "dog")])
def test_class_names_are_read_from_a_list_or_a_mapping(tmp_path: Path, names: Any) -> None:
    assert read_checkpoint(saved(tmp_path, {"model": {"a": torch.ones(1)}, "names": names})).names == ("cat", "dog")


@pytest.mark.parametrize("names", [{0: "cat", 2: "dog"}, {"cat": 0}, [1, 2], [], ["cat\x1b[2J"], {0: "cat", 1: None}])
def test_class_names_that_are_none_are_left_out_and_that_is_said(tmp_path: Path, names: Any) -> None:
    read = read_checkpoint(saved(tmp_path, {"model": {"a": torch.ones(1)}, "names": names}))
    assert read.names is None
    assert any("class names" in note for note in read.notes)


def test_training_metadata_beside_the_weights_is_no_obstacle(tmp_path: Path) -> None:
    import argparse
    import datetime as dt

    value = {
        "model": {"a": torch.ones(1)},
        "when": dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
        "path": Path("runs/train"),
        "fitness": np.float64(0.5),
        "curve": np.arange(3),
        "args": argparse.Namespace(lr0=0.01),
        "device": torch.device("cpu"),
        "shape": torch.Size([1, 2]),
        "seen": {1, 2},
        "optimizer": torch.optim.AdamW([nn.Parameter(torch.ones(2))]).state_dict(),
    }
    assert list(read_checkpoint(saved(tmp_path, value)).tensors) == ["a"]


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    state = {f"layer.{index}.weight": torch.rand(1000, 100) for index in range(10)}
    data = saved(tmp_path, {"model": state, "epoch": 3}).read_bytes()
    path = tmp_path / "cut.pt"
    for length in (4, 100, 1000, 142_000, 3_000_000, len(data) - 1):
        path.write_bytes(data[:length])
        assert code_of(path) == "W002"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"just some text\n", "not a PyTorch checkpoint"),
        (bytes(range(256)) * 10, "not a PyTorch checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"),
    ],
)
def test_files_that_are_no_checkpoint_are_refused_by_what_they_are(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    with pytest.raises(SegcError, match=words) as caught:
        read_checkpoint(path)
    assert caught.value.diagnostics[0].code == "W001"


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert code_of(tmp_path / "nothing.pt") == "F001"
    assert code_of(tmp_path) == "W001"


def test_the_old_format_is_refused_with_a_way_out(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.ones(1)}, _use_new_zipfile_serialization=False)
    with pytest.raises(SegcError, match=r"before 1\.6") as caught:
        read_checkpoint(path)
    assert caught.value.diagnostics[0].help is not None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.trace(nn.Conv2d(1, 1, 1), torch.ones(1, 1, 2, 2)), path)
    with pytest.raises(SegcError, match="TorchScript"):
        read_checkpoint(path)


def test_another_zip_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "arrays.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"1")
    assert code_of(path) == "W001"


@pytest.mark.parametrize("value", [{"epoch": 1}, [torch.ones(1)], 5, {"model": {"a": 1}}, None, {"ema": None}])
def test_a_checkpoint_without_weights_is_refused(tmp_path: Path, value: Any) -> None:
    assert code_of(saved(tmp_path, value)) == "W006"


def test_sparse_and_quantised_tensors_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SegcError, match="_rebuild_sparse_tensor") as caught:
        read_checkpoint(saved(tmp_path, {"a": torch.eye(3).to_sparse()}))
    assert caught.value.diagnostics[0].code == "W003"


def test_a_tensor_that_repeats_its_storage_is_refused(tmp_path: Path) -> None:
    assert code_of(saved(tmp_path, {"a": torch.ones(1).expand(2**20, 2**20)})) == "W002"


def test_a_big_endian_archive_is_read_right(tmp_path: Path) -> None:
    source = saved(tmp_path, {"a": torch.tensor([1.0, 2.0])})
    path = tmp_path / "big.pt"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("/data/0"):
                data = np.frombuffer(data, "<f4").astype(">f4").tobytes()
            new.writestr(entry.filename, b"big" if entry.filename.endswith("byteorder") else data)
    assert np.array_equal(read_checkpoint(path).tensors["a"], [1.0, 2.0])


def test_compressed_entries_are_refused_undecompressed(tmp_path: Path) -> None:
    source = saved(tmp_path, {"a": torch.zeros(10_000)})
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(SegcError, match="compressed entry"):
        read_checkpoint(path)


def test_files_beyond_the_bound_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "MAX_FILE_BYTES", 100)
    assert code_of(saved(tmp_path, {"a": torch.zeros(1)})) == "W004"


def test_many_views_of_one_storage_are_bounded(tmp_path: Path) -> None:
    shared = torch.zeros(50_000, dtype=torch.uint8)
    assert code_of(saved(tmp_path, {str(index): shared for index in range(50)})) == "W004"

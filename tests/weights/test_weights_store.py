import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save

from segc.diagnostics import SegcError
from segc.weights.store import describe_weights, load_weights, save_weights

TENSORS = {
    "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.counter": np.array(7, np.int64),
    "c.half": np.linspace(-1, 1, 5).astype(np.float16),
}
METADATA = {"names": json.dumps(["person", "café"]), "task": "segment", "zeta": "1", "alpha": "2", "nc": "2"}


def code_of(path: Path) -> str:
    with pytest.raises(SegcError) as caught:
        load_weights(path)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.file == path
    return diagnostic.code


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "w.safetensors"
    save_weights(path, TENSORS, METADATA)
    loaded = load_weights(path)
    assert loaded.metadata == METADATA
    assert loaded.names == ("person", "café")
    assert {name: array.dtype.name for name, array in loaded.tensors.items()} == {
        "a.counter": "int64",
        "b.weight": "float32",
        "c.half": "float32",
    }
    for name, array in TENSORS.items():
        assert loaded.tensors[name].shape == array.shape
        assert np.array_equal(loaded.tensors[name], array)


def test_equal_content_gives_equal_bytes_whatever_its_order(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    save_weights(first, TENSORS, METADATA)
    for _ in range(5):
        save_weights(second, dict(reversed(TENSORS.items())), dict(reversed(METADATA.items())))
        assert first.read_bytes() == second.read_bytes()


def test_the_file_is_one_that_the_safetensors_library_reads(tmp_path: Path) -> None:
    from safetensors import safe_open

    path = tmp_path / "w.safetensors"
    save_weights(path, TENSORS, METADATA)
    with safe_open(path, framework="np") as file:
        assert file.metadata() == METADATA
        assert set(file.keys()) == set(TENSORS)


def test_columns_first_arrays_are_written_right(tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    save_weights(tmp_path / "w", {"a": array}, {})
    assert np.array_equal(load_weights(tmp_path / "w").tensors["a"], array)


def test_bfloat16_is_widened_exactly(tmp_path: Path) -> None:
    values = np.array([1.5, -2.25, 3e38, 1e-38], ml_dtypes.bfloat16)
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + values.tobytes())
    assert np.array_equal(load_weights(path).tensors["a"], values.astype(np.float32).reshape(2, 2))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, TENSORS, METADATA)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_weights(path, {"a": np.zeros(2, np.uint8)}, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_describe_shows_formats_as_they_lie_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, TENSORS, METADATA)
    tensors, metadata = describe_weights(path)
    assert [(t.name, t.dtype, t.shape) for t in tensors] == [
        ("a.counter", "I64", ()),
        ("b.weight", "F32", (2, 3)),
        ("c.half", "F16", (5,)),
    ]
    assert metadata == METADATA


def test_a_truncated_file_is_refused_at_any_length(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, TENSORS, METADATA)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert code_of(path) in {"W001", "W002"}


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"version: 1\nname: shapes\n", b"12345678{not json at all", b"PK\x03\x04" * 20, bytes(1000)],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    assert code_of(path) == "W001"


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert code_of(tmp_path / "nothing") == "F001"
    assert code_of(tmp_path) == "W001"


def test_an_enormous_header_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes((2**30).to_bytes(8, "little") + b"{" + b" " * 100)
    assert code_of(path) == "W004"


def test_numbers_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(save({"mask": np.zeros(3, bool)}))
    assert code_of(path) == "W005"


@pytest.mark.parametrize("names", ["not json", "{}", "[1]", "[]", "[" * 100_000])
def test_metadata_without_a_list_of_names_has_no_names(tmp_path: Path, names: str) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, TENSORS, {"names": names})
    assert load_weights(path).names is None


def test_reading_weights_imports_no_framework() -> None:
    script = (
        "import sys, segc.weights.store, segc.weights.checkpoint, segc.weights.transfer, segc.weights.resolve, "
        "segc.weights.importing; print([m for m in ('torch', 'onnx', 'cv2', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

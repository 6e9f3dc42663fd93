"""What `make demo` costs is measured by running what make runs."""

from pathlib import Path

from benchmarks.demo import commands


def test_what_is_measured_is_what_make_runs(tmp_path: Path) -> None:
    shapes = tmp_path / "shapes"
    lines = [" ".join(words[1:]) for words in commands(shapes)]
    assert lines[:2] == [f"{shapes}/generate.py", f"validate {shapes}/project.yaml"]
    assert lines[-2] == f"emit {shapes}/project.yaml --target onnx"
    assert lines[-1].startswith(f"{shapes}/build/artifacts/onnx/predict.py {shapes}/images/val")

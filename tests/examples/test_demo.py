"""What `make demo` costs is measured by running what make runs."""

import json
from pathlib import Path

from benchmarks.demo import ROOT, commands, sentence


def test_readme_says_of_the_demo_what_was_measured() -> None:
    measured = json.loads((ROOT / "benchmarks" / "demo.json").read_text())
    assert sentence(measured) in " ".join((ROOT / "README.md").read_text().split())


def test_what_is_measured_is_what_make_runs(tmp_path: Path) -> None:
    shapes = tmp_path / "shapes"
    lines = [" ".join(words[1:]) for words in commands(shapes)]
    assert lines[:2] == [f"{shapes}/generate.py", f"validate {shapes}/project.yaml"]
    assert lines[-2] == f"emit {shapes}/project.yaml --target onnx"
    assert lines[-1].startswith(f"{shapes}/build/artifacts/onnx/predict.py {shapes}/images/val")

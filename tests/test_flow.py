"""The whole way, as a user goes it: generate, validate, build, train, val, emit, and run the standalone script."""

import json
import subprocess
import sys
from pathlib import Path

SHAPES = Path(__file__).resolve().parents[1] / "examples" / "shapes"

SPEC = """\
version: 1
name: flow
architecture: {family: yolov8-seg, scale: {depth: 0.1, width: 0.1, max_channels: 256}}
dataset:
  path: data
  train: images/train
  val: images/val
  names: [circle, square, triangle, star, cross, crescent]
hyperparameters:
  {imgsz: 96, epochs: 2, batch: 8, nominal_batch: 8, optimizer: AdamW, lr0: 0.002, workers: 0, device: cpu, conf: 0.001}
targets: [{format: onnx}]
"""


def go(folder: Path, *command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_one_project_file_leads_to_a_verified_model_and_its_script(tmp_path: Path) -> None:
    (tmp_path / "project.yaml").write_text(SPEC)
    go(tmp_path, str(SHAPES / "generate.py"), "--train", "24", "--val", "4", "--output", "data")
    assert "valid" in go(tmp_path, "-m", "segc", "validate")
    assert "parameters" in go(tmp_path, "-m", "segc", "build")
    assert "mAP50" in go(tmp_path, "-m", "segc", "train")
    assert "circle" in go(tmp_path, "-m", "segc", "val")
    assert "verified" in go(tmp_path, "-m", "segc", "emit")
    artifact = tmp_path / "build" / "artifacts" / "onnx"
    assert "circle" in go(tmp_path, "-m", "segc", "val", "--artifact", str(artifact))
    photographs = str(Path("data") / "images" / "val")
    go(tmp_path, str(artifact / "predict.py"), photographs, "--output", "by_script")
    go(tmp_path, "-m", "segc", "predict", photographs, "--artifact", str(artifact), "-o", "by_segc", "--save-json")
    by_script, by_segc = ((tmp_path / folder / "predictions.json").read_text() for folder in ("by_script", "by_segc"))
    assert by_script == by_segc
    found = json.loads(by_script)
    assert len(found) == 4
    assert any(image["detections"] for image in found)
    pictures = {path.name for path in (tmp_path / "by_script").glob("*.jpg")}
    assert len(pictures) == 4

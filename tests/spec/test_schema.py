"""The published JSON Schema: as the models are, usable by editors, and of one mind with the loader."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from segc.commands.schema import command
from segc.files import resource
from segc.spec.json_schema import project_schema, schema_text
from segc.spec.load import check_project
from segc.targets import registry

BROKEN = Path(__file__).parents[1] / "diagnostics" / "broken"
EXAMPLES = Path(__file__).parents[2] / "examples"


def _validator() -> Draft202012Validator:
    Draft202012Validator.check_schema(project_schema())
    return Draft202012Validator(project_schema())


def _as_json(path: Path) -> Any:
    return json.loads(json.dumps(YAML(typ="safe", pure=True).load(path.read_text())))


def test_the_published_schema_is_that_of_the_models() -> None:
    published = resource("schemas", "project.schema.json").read_text(encoding="utf-8")
    assert published == schema_text(), "write it anew: segc schema -o schemas/project.schema.json"


def test_the_schema_names_itself_and_its_dialect() -> None:
    schema = project_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == "urn:segc:schemas:project:1"


def test_every_mapping_of_the_schema_is_closed_and_every_key_described() -> None:
    schema = project_schema()
    for part in (schema, *schema["$defs"].values()):
        assert part["additionalProperties"] is False
        for key, value in part["properties"].items():
            assert "description" in value or key == "format", key


def test_every_target_is_in_the_schema_under_its_format() -> None:
    definitions = project_schema()["$defs"]
    for model in registry.options_models():
        assert "const" in definitions[model.__name__]["properties"]["format"]
        assert "format" in definitions[model.__name__]["required"]


@pytest.mark.parametrize("project", sorted(EXAMPLES.glob("*/project.yaml")), ids=lambda path: path.parent.name)
def test_examples_are_valid_by_schema_and_loader(project: Path, request: pytest.FixtureRequest) -> None:
    if "shared/" in project.read_text(encoding="utf-8"):
        request.getfixturevalue("coco")
    assert list(_validator().iter_errors(_as_json(project))) == []
    loaded, diagnostics = check_project(project)
    assert loaded is not None, diagnostics


@pytest.mark.parametrize(
    "name",
    [
        "missing_key",
        "missing_nested_key",
        "target_without_format",
        "unknown_key_near",
        "unknown_key_not_yet",
        "text_for_number",
        "quoted_number",
        "boolean_for_number",
        "number_for_text",
        "nothing_for_number",
        "list_for_mapping",
        "mapping_for_list",
        "too_small",
        "too_large",
        "scale_out_of_range",
        "side_out_of_range",
        "size_not_a_multiple",
        "unknown_scale",
        "unknown_optimizer",
        "unknown_target",
        "unknown_device",
        "unknown_weights",
        "coco_format",
        "malformed_name",
        "three_sides",
        "version_newer",
        "repeated_name",
        "names_twice",
        "names_nowhere",
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(name: str) -> None:
    assert list(_validator().iter_errors(_as_json(BROKEN / f"{name}.yaml")))
    assert check_project(BROKEN / f"{name}.yaml")[0] is None


@pytest.mark.parametrize(
    "dataset",
    [
        {"data": "data.yaml"},
        {"data": "data.yaml", "val": ["a", "b"]},
        {"train": "a", "val": "b", "names": {"0": "x", "1": "y"}},
        {"path": "..", "train": ["a"], "val": "b", "names": ["x"]},
    ],
)
def test_the_schema_takes_every_form_of_a_dataset(dataset: dict[str, Any]) -> None:
    spec = {"version": 1, "name": "x", "architecture": {"family": "yolov8-seg", "scale": "n"}, "dataset": dataset}
    assert list(_validator().iter_errors(spec)) == []


def test_the_command_prints_the_schema_or_writes_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [])
    assert result.exit_code == 0
    assert result.output == schema_text()
    result = CliRunner().invoke(command, ["-o", str(tmp_path / "new" / "schema.json")])
    assert result.exit_code == 0
    assert (tmp_path / "new" / "schema.json").read_text(encoding="utf-8") == schema_text()

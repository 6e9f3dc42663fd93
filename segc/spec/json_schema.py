"""The JSON Schema of a ``project.yaml``, generated from the models, for editors and other programs."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from segc.files import canonical_json
from segc.spec.project import SPEC_VERSION, Project

SCHEMA_ID = f"urn:segc:schemas:project:{SPEC_VERSION}"


class _Generator(GenerateJsonSchema):
    """Leaves out titles that only repeat a key: editors would show them before the description."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def project_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of a spec as it is written, before a data file is taken over."""
    schema = Project.model_json_schema(schema_generator=_Generator)
    return {"$schema": _Generator.schema_dialect, "$id": SCHEMA_ID, **schema, "title": "segc project"}


def schema_text() -> str:
    """The schema as the text that stands in ``schemas/project.schema.json``."""
    return canonical_json(project_schema())

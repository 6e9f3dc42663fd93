"""Pages from the templates in ``templates/report/``."""

from typing import Any

from segc.files import resource
from segc.version import __version__


def render(template: str, **values: Any) -> str:
    """A page: one file that needs nothing else. What is not marked as markup of our own is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(resource("templates", "report")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(version=__version__, **values)

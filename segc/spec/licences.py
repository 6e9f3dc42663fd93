"""Licences by name, as far as they are compared."""

import re
from collections.abc import Sequence


def licence_name(text: str) -> str:
    """The name at the head of what a file says: ``AGPL-3.0`` of ``AGPL-3.0 (https://…)``."""
    found = re.match(r"[\w.+-]+", text.strip(), re.ASCII)
    return found[0] if found else text.strip()


def allows(allowed: Sequence[str] | None, licence: str | None) -> bool:
    """Whether a licence is one of those allowed; where none are named, all are, and the unknown too.

    Names are compared without regard to case; ``licence`` may be a sentence that begins with the name. Expressions
    (``MIT OR Apache-2.0``) are allowed where they stand in the list as they are.
    """
    if allowed is None:
        return True
    if licence is None:
        return False
    known = {name.strip().casefold() for name in allowed}
    whole = licence.strip().casefold()
    compound = re.search(r"\b(or|and|with)\b", whole) is not None
    return whole in known or (not compound and licence_name(licence).casefold() in known)

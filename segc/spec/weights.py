"""How weights are named: a published name, an address, or a file."""

import os
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from segc.architectures.published import BY_ADDRESS, PUBLISHED, Published
from segc.files import is_file

HUB = "https://huggingface.co"
"""Where ``hf://`` addresses lead."""

SHA256 = re.compile("[0-9a-f]{64}")

MAX_FILE_BYTES = 4 * 2**30
"""Of a file: the largest scale with optimiser and averaged weights in full precision takes a quarter of it."""

_LONGEST = 2048


class NoReferenceError(ValueError):
    """A text that names no weights.

    Args:
        message: what is wrong.
        way_out: what to write instead.
    """

    def __init__(self, message: str, way_out: str) -> None:
        super().__init__(message)
        self.message, self.way_out = message, way_out


@dataclass(frozen=True, slots=True)
class WeightsReference:
    """Weights as a project or a command line names them.

    Attributes:
        text: as it is written.
        path: the file meant, where one can be; relative ones start at the folder of the project.
        address: where it is fetched from if there is no such file: ``https``.
        published: the row of the published file, where the name is one.
        sha256: the digest that the file must have, where the user says one.
    """

    text: str
    path: str | None = None
    address: str | None = None
    published: Published | None = None
    sha256: str | None = None

    def file(self, root: Path) -> Path | None:
        """The file meant, if it is not one to be fetched.

        A name with its suffix, such as ``yolov8n-seg.pt``, is the file of that name where there is one.

        Args:
            root: the folder that relative paths start from.
        """
        if self.path is None:
            return None
        path = root / os.path.expanduser(self.path)  # noqa: PTH111 - Path.expanduser raises for users that are not there
        return path if self.address is None or is_file(path) else None

    @property
    def file_name(self) -> str:
        """A name for the file, fit for any system."""
        if self.address is None:
            return Path(self.path or "").name
        name = urllib.parse.unquote(urllib.parse.urlsplit(self.address).path).rpartition("/")[2]
        return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[-100:] or "weights"

    @property
    def shown(self) -> str:
        """What records call it: of a file its name; of an address all but a query, which may hold a key."""
        if self.address is None:
            return Path(self.path or "").name
        return self.published.name if self.published else re.sub("[?#].*", "", self.text)


def parse_reference(text: str, sha256: str | None = None) -> WeightsReference:
    """Tell what a text names; nothing is looked up.

    - ``yolov8n-seg``, with or without ``.pt``: published weights;
    - ``https://…``; ``hf://owner/repository/path`` and ``hf://owner/repository@revision/path`` at the Hugging Face hub;
    - ``file:///…`` and everything else: a file.

    Args:
        text: the text.
        sha256: the digest that the user says, 64 hex digits.

    Raises:
        NoReferenceError: where it names none.
    """
    if not text.strip() or not text.isprintable() or len(text) > _LONGEST:
        raise NoReferenceError("this names no weights", f"{_forms()}")
    scheme, separator, rest = text.partition("://")
    if separator:
        make = _SCHEMES.get(scheme.lower())
        if make is None:
            raise NoReferenceError(
                f"weights are not fetched by `{scheme}`",
                "https, hf and file are: without a certificate, anybody on the way could exchange the file",
            )
        path, address = make(text, rest)
        return WeightsReference(text, path, address, BY_ADDRESS.get(address or ""), sha256)
    bare = "/" not in text and "\\" not in text
    row = PUBLISHED.get(text.removesuffix(".pt")) if bare else None
    if row is not None:
        return WeightsReference(text, text if text != row.name else None, row.address, row, sha256)
    if bare and not PurePosixPath(text).suffix:
        import difflib

        near = difflib.get_close_matches(text, PUBLISHED, 1)
        way_out = f"did you mean `{near[0]}`? " if near else ""
        raise NoReferenceError(
            f"no weights are published here as `{text}`",
            f"{way_out}`segc weights list` shows the names; a file without a suffix is written ./{text}",
        )
    return WeightsReference(text, text, None, None, sha256)


def _forms() -> str:
    return f"for example {next(iter(PUBLISHED))}, https://…, hf://owner/repository/file or start.safetensors"


def _web(text: str, _rest: str) -> tuple[None, str]:
    try:
        parts = urllib.parse.urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise NoReferenceError(f"not an address: {error}", _forms()) from None
    if not host or not parts.path.strip("/"):
        raise NoReferenceError("the address names no file", _forms())
    if "@" in parts.netloc:
        raise NoReferenceError(
            "the address holds a user name or password, which records would spread",
            "fetch the file by hand and name it, or set SEGC_WEIGHTS_URL to a mirror",
        )
    if not parts.netloc.isascii():
        raise NoReferenceError("the host's name is not ASCII", "write it in its xn-- form")
    # Spaces and letters beyond ASCII, as people paste them, are escaped; what is escaped already stays.
    return None, urllib.parse.quote(text.partition("#")[0], safe=":/?[]@!$&'()*+,;=%~")


def _hub(_text: str, rest: str) -> tuple[None, str]:
    found = re.fullmatch(r"([\w.-]+/[\w.-]+?)(?:@([\w.-]+))?/([^?#]+)", rest, re.ASCII)
    if found is None or any(part in {"", ".", ".."} for part in f"{found[1]}/{found[3]}".split("/")):
        raise NoReferenceError("not an address at the hub", "it is written hf://owner/repository/file")
    repository, revision, path = found.groups()
    return None, f"{HUB}/{repository}/resolve/{revision or 'main'}/{urllib.parse.quote(path)}"


def _file(_text: str, rest: str) -> tuple[str, None]:
    host, slash, path = rest.partition("/")
    if host.lower() not in {"", "localhost"} or not slash or not path:
        raise NoReferenceError("a file: address names a file of this machine", "it is written file:///path/to/file")
    from urllib.request import url2pathname  # brings the whole of HTTP along

    return url2pathname(f"/{path}"), None


_SCHEMES = {"https": _web, "hf": _hub, "file": _file}

"""HTTP exchanges of a download: every byte waited for under one deadline, redirects counted and to ``https`` only.

The standard library is enough: it knows the proxies and certificates of the system, where the usual clients bring a
list of certificates of their own, and it lets a deadline be put under its streams, which holds against a server that
sends a byte at a time.
"""

import functools
import http.client
import io
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from email.message import Message

MOST_REDIRECTS = 5
SILENCE = 30.0
"""Seconds that a server may be silent."""
HEAD = 60.0
"""Seconds until the head of an answer must be there, connecting included."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Fault(Exception):  # noqa: N818 - the caller turns it into a SegcError with the address and the way out
    """An exchange that came to nothing.

    Args:
        code: the diagnostic's.
        message: what went wrong.
        passing: whether trying again may help.
    """

    def __init__(self, code: str, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.code, self.message, self.passing = code, message, passing


class Deadline:
    """When everything must be done, and when the step at hand must be.

    Args:
        seconds: for everything.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = self._step = time.monotonic() + seconds

    def step(self, seconds: float | None) -> None:
        """Begin a step that has its own limit, or none but that of everything."""
        self._step = self._end if seconds is None else min(self._end, time.monotonic() + seconds)

    def left(self, most: float = float("inf")) -> float:
        """Seconds left, at most ``most``.

        Raises:
            Fault: N005 where none are.
        """
        now = time.monotonic()
        if now >= self._end:
            raise Fault("N005", f"not done within {self._seconds:g} seconds")
        if now >= self._step:
            raise Fault("N005", f"the server did not answer within {HEAD:g} seconds")
        return min(self._step - now, most)


class _TimedReader(io.RawIOBase):
    """A socket's stream that looks at the deadline before each wait."""

    def __init__(self, stream: io.RawIOBase, connection: socket.socket, deadline: Deadline) -> None:
        self._stream, self._connection, self._deadline = stream, connection, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._connection.settimeout(self._deadline.left(SILENCE))
        return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, deadline: Deadline, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        buffered: Any = self.fp
        self.fp = io.BufferedReader(_TimedReader(buffered.detach(), sock, deadline))


def _connect(deadline: Deadline, address: tuple[str, int], *_: Any) -> socket.socket:
    """Connect to the first address of a host that answers."""
    fault: OSError = OSError(f"{address[0]} has no address")
    for family, kind, protocol, _name, place in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(deadline.left(SILENCE))
            connection.connect(place)
        except OSError as error:
            connection.close()
            fault = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise fault


def _bounded(kind: Any, deadline: Deadline, host: str, **options: Any) -> http.client.HTTPConnection:
    connection: Any = kind(host, **options)
    connection.response_class = functools.partial(_Answer, deadline=deadline)
    connection._create_connection = functools.partial(_connect, deadline)  # noqa: SLF001 - where http.client lets one in
    result: http.client.HTTPConnection = connection
    return result


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        make: Any = functools.partial(_bounded, http.client.HTTPConnection, self._deadline)
        return self.do_open(make, req)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        make: Any = functools.partial(_bounded, http.client.HTTPSConnection, self._deadline)
        return self.do_open(make, req, context=ssl.create_default_context())


def _opener(deadline: Deadline) -> urllib.request.OpenerDirector:
    """Proxies as the system has them; no files, no other schemes, and every answer as it is, redirects too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _Plain(deadline),
        _Secure(deadline),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


class Answer:
    """An answer with a body to read: status 200, 206 or 416.

    Attributes:
        status: the status.
        headers: the head.
        length: bytes of the body, where the head says so.
        ends_surely: whether a body that broke off can be told from one that is whole.
    """

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Message = response.headers
        self.length = response.length
        self.ends_surely = response.length is not None or bool(response.chunked)

    def read(self, most: int) -> bytes:
        """Some bytes, none at the end.

        Raises:
            Fault: N008 where the connection breaks, N005 where the time is over.
        """
        with _faults():
            return self._response.read1(most)


@contextmanager
def exchange(address: str, headers: dict[str, str], deadline: Deadline) -> Iterator[Answer]:
    """Ask for an address, following redirects.

    Args:
        address: http or https, escaped.
        headers: to send.
        deadline: when all must be done.

    Raises:
        Fault: N001 to N008, for whatever goes wrong.
    """
    opener = _opener(deadline)
    for _ in range(MOST_REDIRECTS + 1):
        request = urllib.request.Request(address, headers=headers)  # noqa: S310 - schemes are checked, the opener has no others
        deadline.step(HEAD)
        with _faults():
            response = opener.open(request, timeout=deadline.left(SILENCE))
        deadline.step(None)
        with response:
            if response.status in _REDIRECTS:
                address = _redirect(address, response.headers.get("Location"))
                continue
            if response.status not in {200, 206, 416}:
                passing = response.status in {429, 500, 502, 503, 504}
                said = f"{response.status} {response.reason}".strip()
                raise Fault("N002", f"the server answered {said}", passing=passing)
            yield Answer(response)
            return
    raise Fault("N007", f"over {MOST_REDIRECTS} redirects, the last to {address}")


def _redirect(address: str, location: str | None) -> str:
    if not location:
        raise Fault("N007", "a redirect to nowhere")
    try:
        target = urllib.parse.urljoin(address, location)
        parts = urllib.parse.urlsplit(target)
        sound = bool(parts.hostname) and "@" not in parts.netloc and target.isascii() and target.isprintable()
    except ValueError:
        sound = False
    if not sound or parts.scheme != "https":
        raise Fault("N007", f"a redirect to {location[:200]}; only https is followed")
    return urllib.parse.quote(target, safe=":/?#[]@!$&'()*+,;=%~")


@contextmanager
def _faults() -> Iterator[None]:
    """Turn what the library raises into the one fault that says so."""
    try:
        yield
    except urllib.error.URLError as error:
        raise _unreachable(error.reason) from error
    except TimeoutError as error:
        raise Fault("N008", f"the server was silent for {SILENCE:g} seconds", passing=True) from error
    except ssl.SSLError as error:
        raise _unreachable(error) from error
    except (http.client.HTTPException, OSError) as error:
        raise Fault("N008", f"the connection broke: {_words(error)}", passing=True) from error


def _unreachable(reason: object) -> Fault:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return Fault("N004", f"the server's certificate is not accepted: {reason.verify_message}")
    if isinstance(reason, TimeoutError):
        return Fault("N001", "no answer within the time for connecting")
    return Fault("N001", f"cannot be reached: {_words(reason)}")


def _words(reason: object) -> str:
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return "".join(c if c.isprintable() else "\ufffd" for c in str(text))[:200]

"""A file from a web address: all of it and of the declared bytes, or not there; what came before is not fetched again.

A server may be slow, stop, end early, say something else than it sends, or send something else than was asked for.
Everything it does has a limit, and nothing but the digest decides what a file is.
"""

import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib import request as web
from urllib.error import HTTPError, URLError

from segdist.core.errors import WeightsError
from segdist.core.storage import check_space

Told = Callable[[int], None]
"""Is told how many bytes of a file are here."""
_PIECE = 1 << 18
_WORTH = 1 << 20
"""Bytes after which a connection that broke was a good one, and patience begins anew."""
_PASSING = (408, 425, 429, 500, 502, 503, 504)
"""What servers answer that may answer otherwise in a moment."""
_ELSEWHERE = "Bring the file here in another way, and name its path instead."
_OK, _REST, _NO_SUCH_RANGE = 200, 206, 416
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True)
class Patience:
    """What a server is given.

    Attributes:
        answer: seconds until it answers: the name found, connected, all headers sent.
        silence: seconds in which nothing comes.
        window: seconds over which its rate is measured.
        rate: bytes a second that it must send.
        pauses: seconds before each further try, when there is no answer or it ends early.
    """

    answer: float = 60.0
    silence: float = 30.0
    window: float = 60.0
    rate: float = 4096.0
    pauses: tuple[float, ...] = (1.0, 4.0, 16.0)


class _BrokenOffError(Exception):
    """A server did not send what was asked for, but might another time."""


def fetch(
    address: str, file: Path, *, size: int, sha256: str, patience: Patience | None = None, told: Told = lambda _: None
) -> None:
    """Get a file, or what is left of it. One process at a time may: see `locks`.

    What came so far lies beside it as `NAME.part`.

    Args:
        address: http or https.
        file: appears when it is whole; its folder is there.
        size: its bytes; no more are read.
        sha256: its digest.
        patience: with the server.
        told: while it grows.

    Raises:
        WeightsError: the server does not have it, sends something else, or breaks off again and again.
        StorageError: the disk has no room for it.
    """
    part = file.with_name(f"{file.name}.part")
    patience = patience or Patience()
    check_space(file.parent, size - _bytes_of(part), address)
    is_resumed = _bytes_of(part) > 0
    _fill(part, address, size, patience, told)
    try:
        put_in_place(part, file, size=size, sha256=sha256, origin=address)
    except WeightsError:
        if not is_resumed:
            raise
        _fill(part, address, size, patience, told)  # what was there before was perhaps of another file
        put_in_place(part, file, size=size, sha256=sha256, origin=address)
    _tag_of(part).unlink(missing_ok=True)


def put_in_place(part: Path, file: Path, *, size: int, sha256: str, origin: str) -> None:
    """Give a file its name, if it is the one that was meant; otherwise it is deleted.

    Raises:
        WeightsError: it is another one.
    """
    with part.open("r+b") as stream:
        os.fsync(stream.fileno())
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        about = f"{_bytes_of(part):,} bytes with SHA-256 {found}"
        part.unlink()
        _tag_of(part).unlink(missing_ok=True)
        raise WeightsError(
            f"{origin} must be the file of {size:,} bytes with SHA-256 {sha256}, but is one of {about}. It was "
            "deleted: it is not what was published, or something on the way changed it."
        )
    part.replace(file)


def _fill(part: Path, address: str, size: int, patience: Patience, told: Told) -> None:
    """Read until all is there, with another try where the server breaks off."""
    pauses = iter(patience.pauses)
    while (before := _bytes_of(part)) < size:
        try:
            _read_on(part, address, size, patience, told)
        except _BrokenOffError as error:
            if _bytes_of(part) - before >= _WORTH:
                pauses = iter(patience.pauses)
            if (pause := next(pauses, None)) is None:
                raise WeightsError(
                    f"{address} cannot be fetched: {error}. {_bytes_of(part):,} of {size:,} bytes are here: run the "
                    "same command again to get the rest."
                ) from error
            time.sleep(pause)


def _read_on(part: Path, address: str, size: int, patience: Patience, told: Told) -> None:
    """One request for what is missing, appended to what is there; from the start where the server wants it so."""
    with _answer(part, address, size, patience) as response:
        tag = response.headers.get("ETag", "")
        with part.open("ab") as stream:
            if response.status == _OK:
                stream.seek(0)
                stream.truncate()
                _tag_of(part).write_text(tag if tag.startswith('"') else "")  # weak ones name no bytes
            for piece in _pieces(response, size - stream.tell(), patience):
                stream.write(piece)
                told(stream.tell())


@contextmanager
def _answer(part: Path, address: str, size: int, patience: Patience) -> Iterator[HTTPResponse]:
    """What the server answers, if it is about the file of this size and begins where ours ends.

    Raises:
        WeightsError: it is about another file, or there is none.
        _BrokenOffError: there is no answer, or one that may be another in a moment.
    """
    have, tag = _bytes_of(part), _tag_of(part)
    headers = {"User-Agent": "segdist", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag.is_file() and (known := tag.read_text()):
            headers["If-Range"] = known
    with _network_errors(patience):
        try:
            response = _opened(web.Request(address, headers=headers), patience)  # noqa: S310 - see `_OPENER`
        except HTTPError as error:
            error.close()
            if error.code == _NO_SUCH_RANGE:
                part.unlink()
            said = f"the server says {error.code} {error.reason}"
            if error.code not in (*_PASSING, _NO_SUCH_RANGE):
                raise WeightsError(f"{address} cannot be fetched: {said}. {_ELSEWHERE}") from None
            raise _BrokenOffError(said) from None
        except URLError as error:
            if isinstance(error.reason, socket.gaierror) and error.reason.errno == socket.EAI_NONAME:
                raise WeightsError(f"{address} cannot be fetched: there is no such host. {_ELSEWHERE}") from error
            raise
    with closing(response):
        start, total = _extent(response)
        if total not in (None, size):
            raise WeightsError(f"{address} must have {size:,} bytes, but the server has another file, of {total:,}")
        if start not in (0 if response.status == _OK else have,) or response.status not in (_OK, _REST):
            part.unlink(missing_ok=True)
            raise _BrokenOffError(f"the server says {response.status} and begins at byte {start}")
        yield response


def _extent(response: HTTPResponse) -> tuple[int | None, int | None]:
    """The byte that an answer begins with, and how many the whole file has; None where it does not say."""
    if response.status == _OK:
        return 0, response.length
    said = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return (int(said[1]), None if said[2] == "*" else int(said[2])) if said else (None, None)


def _pieces(response: HTTPResponse, missing: int, patience: Patience) -> Iterator[bytes]:
    """What comes, and not more than is missing.

    Raises:
        _BrokenOffError: the rest does not come, or too slowly.
    """
    since, in_window = time.monotonic(), 0
    while missing > 0:
        with _network_errors(patience):
            piece = response.read1(min(_PIECE, missing))
        if not piece:
            raise _BrokenOffError(f"the server ended {missing:,} bytes too early")
        missing -= len(piece)
        in_window += len(piece)
        yield piece
        if (seconds := time.monotonic() - since) >= patience.window:
            if in_window < patience.rate * seconds:
                raise _BrokenOffError(f"the server sends less than {patience.rate:,.0f} bytes a second")
            since, in_window = time.monotonic(), 0


def _opened(request: web.Request, patience: Patience) -> HTTPResponse:
    """The answer to a request.

    Another thread asks: a name that is not found and headers that come byte by byte have no limit of their own.
    """
    answer: Future[HTTPResponse] = Future()

    def ask() -> None:
        try:
            answer.set_result(_OPENER.open(request, timeout=patience.silence))
        except BaseException as error:  # noqa: BLE001 - it is raised where the answer is wanted
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(patience.answer)
    except TimeoutError:
        answer.add_done_callback(lambda late: None if late.exception() else late.result().close())
        raise


@contextmanager
def _network_errors(patience: Patience) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise _BrokenOffError(f"the server says nothing for {patience.silence:g} seconds") from error
    except (OSError, HTTPException, ValueError) as error:
        raise _BrokenOffError(str(getattr(error, "reason", "")) or str(error) or type(error).__name__) from error


def _only_web() -> web.OpenerDirector:
    """Of what urllib can open, http and https; also after a redirect."""
    opener = web.OpenerDirector()
    for handler in (
        web.ProxyHandler, web.UnknownHandler, web.HTTPHandler, web.HTTPSHandler, web.HTTPDefaultErrorHandler,
        web.HTTPRedirectHandler, web.HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener


_OPENER = _only_web()


def _tag_of(part: Path) -> Path:
    """Where the server's name for the content lies, by which it knows whether the rest belongs to what is here."""
    return part.with_name(f"{part.name}.etag")


def _bytes_of(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0

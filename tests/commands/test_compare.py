"""`segdist compare --open`: a browser is shown what a server shows, and nothing that is not there."""

import socket
from collections.abc import Iterator

import pytest

from segdist.commands.compare import Shown
from segdist.core.errors import BackendError


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that the browser was given."""
    seen: list[str] = []

    def opens(address: str) -> bool:
        seen.append(address)
        return True

    monkeypatch.setattr("webbrowser.open", opens)
    return seen


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def shown(server: socket.socket, command: str = "mlflow ui") -> Shown:
    return Shown({"charts": f"http://127.0.0.1:{server.getsockname()[1]}/#/experiments/1"}, command)


def test_the_charts_are_opened_where_something_shows_them(server: socket.socket, opened: list[str]) -> None:
    pages = shown(server)
    pages.open()
    assert opened == [pages.links["charts"]]


def test_a_page_that_nothing_serves_is_not_opened_but_how_to_start_it_is_said(
    opened: list[str],
) -> None:
    pages = Shown({"charts": "http://127.0.0.1:1/#/experiments/1"}, "mlflow ui --port 1")
    with pytest.raises(BackendError, match=r"Nothing answers at http://127.0.0.1:1 yet. Start `mlflow ui --port 1`"):
        pages.open()
    assert opened == []


def test_without_a_browser_the_address_is_named(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webbrowser.open", lambda _: False)
    pages = shown(server, command="")
    with pytest.raises(BackendError, match=f"There is no browser on this machine. Open {pages.links['charts']}"):
        pages.open()

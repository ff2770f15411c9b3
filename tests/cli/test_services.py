"""How replicas are run is read from YAML, and what is wrong in it is said with its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from partita.cli.services import read_services
from partita.drive.replicas import CommandReady, PortReady, Process, Upstream
from partita.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
services:
  - name: bert
    command: [serve, --port, "{port}"]
    environment: {THREADS: "4"}
    ready: port
    grace_s: 5
  - {name: vgg, command: [serve], ready: [curl, localhost]}
  - {name: told, start: [add, "{device}"], stop: [remove, "{device}"]}
"""


def test_processes_and_servers_that_are_told_are_read(tmp_path: Path) -> None:
    path = tmp_path / "services.yaml"
    path.write_text(GOOD)
    found = read_services(path)
    assert found == {
        "bert": Process(("serve", "--port", "{port}"), {"THREADS": "4"}, PortReady(), 5.0),
        "vgg": Process(("serve",), readiness=CommandReady(("curl", "localhost"))),
        "told": Upstream(("add", "{device}"), ("remove", "{device}")),
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected an object"),
        ("services: [{name: a}]", "'command' is missing"),
        ("services: [{name: a, command: serve}]", "list of words"),
        ("services: [{name: a, command: [serve, 1]}]", "list of words"),
        ("services: [{name: a, command: [serve], environmet: {}}]", "unknown key"),
        ("services: [{name: a, command: [serve], environment: {A: 1}}]", "names and texts"),
        ("services: [{name: a, start: [x]}]", "'stop' is missing"),
        ("services: [", "no YAML"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "services.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=told) as caught:
        read_services(path)
    assert str(path) in str(caught.value.where)

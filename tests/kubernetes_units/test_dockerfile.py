"""The image is made of exactly what is locked, is no root's, and passes the linter."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Return each instruction with its words; continued lines are joined, comments left out."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in whole) if word]


def last_stage() -> list[tuple[str, str]]:
    found = instructions()
    start = max(index for index, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


def test_the_linter_finds_nothing() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_nothing_is_installed_that_is_not_locked_with_its_hash() -> None:
    commands = [each for word, rest in instructions() if word == "RUN" for each in rest.split(" && ")]
    installs = [each for each in commands if "pip install" in each]
    assert len(installs) == 3
    assert all("--require-hashes" in each or "--no-deps --no-index" in each for each in installs)
    assert all(" -r " not in each for each in installs)


def test_the_image_is_built_in_one_stage_and_runs_in_another() -> None:
    stages = [rest for word, rest in instructions() if word == "FROM"]
    assert len(stages) == 2
    assert not [rest for word, rest in last_stage() if word == "RUN"]
    (copied,) = [rest for word, rest in last_stage() if word == "COPY"]
    assert copied.startswith("--from=build ")


def test_nothing_runs_as_root_and_the_user_is_a_number() -> None:
    """A kubelet can hold only a number against runAsNonRoot."""
    (user,) = [rest for word, rest in last_stage() if word == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_the_image_is_sent_nothing_that_it_does_not_copy() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    words = [rest.split() for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    copied = {source.split("/")[0] for each in words for source in each[:-1]}
    assert copied == kept
    assert all((ROOT / each).exists() for each in kept)


def test_what_the_image_holds_is_what_the_tests_hold() -> None:
    def locked(name: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for line in (ROOT / "lock" / name).read_text().splitlines():
            if match := re.match(r"([A-Za-z0-9_.-]+)==([^ ;\\]+)", line):
                found.setdefault(match[1], set()).add(match[2])
        return found

    image, tested = locked("image.txt"), locked("dev.txt")
    assert image.keys() <= tested.keys()
    assert {name: versions for name, versions in image.items() if not versions <= tested[name]} == {}
    assert {"kubernetes", "grpcio", "numba"} <= image.keys()

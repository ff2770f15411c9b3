"""The documentation's checks find what they should, and the documentation passes those that are quick."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from docs.checks import command_faults, link_faults, undocumented
from docs.pages import cli_page, workload_tables
from docs.sessions import ROOT, SessionError, rerun


@pytest.fixture
def project(tmp_path):
    (tmp_path / "docs").mkdir()
    return tmp_path


def test_every_link_of_the_project_leads_somewhere():
    assert list(link_faults(ROOT)) == []


def test_every_command_that_the_documentation_mentions_exists():
    assert list(command_faults(ROOT)) == []


def test_every_command_and_option_is_on_the_page_of_the_command_line():
    assert list(undocumented((ROOT / "docs/cli.md").read_text())) == []


def test_the_readme_names_the_test_command_that_ci_runs():
    assert "\nmake test\n" in (ROOT / ".ci/run").read_text()
    assert "\n    make test " in (ROOT / "README.md").read_text()


def test_the_readme_opens_with_the_output_of_the_demo():
    first = re.search(r"^```console\n\$ (.*)\n(.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] == "partita demo"
    assert first[2].startswith("By day: the fewest GPUs")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[a](gone.md)", "README.md: the link gone.md leads nowhere"),
        ("# One thing\n[a](#another)", "README.md: #another: no such heading"),
        ("[a](docs/page.md#far)", "README.md: docs/page.md#far: no such heading"),
    ],
)
def test_a_dead_link_is_named(project, text, fault):
    (project / "docs/page.md").write_text("# Near\n")
    (project / "README.md").write_text(text)
    assert list(link_faults(project)) == [fault]


@pytest.mark.parametrize(
    "text", ["[a](docs/page.md#a-b-c)", "[a](https://example.org/x)", "```\n[a](gone)\n```"]
)
def test_a_good_link_is_no_fault(project, text):
    (project / "docs/page.md").write_text("## A `b`: c\n")
    (project / "README.md").write_text(text)
    assert list(link_faults(project)) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("`partita plna -f w.yaml`", "no command plna"),
        ("`partita plan --quick`", "no option --quick"),
        ("```sh\npartita perf show t.csv --slos 5\n```", "no option --slos"),
        ("```console\n$ partita gpus --all | head\n```", "no option --all"),
    ],
)
def test_a_command_that_does_not_exist_is_named(project, text, why):
    (project / "README.md").write_text(f"{text}\n")
    (fault,) = command_faults(project)
    assert fault.endswith(why)


def test_what_a_job_is_given_is_its_own(project):
    (project / "README.md").write_text(
        "```console\n$ partita submit --name a -- sh -c 'serve --fast; echo {index}' | tee --append log\n```\n"
    )
    assert list(command_faults(project)) == []


def test_an_option_that_is_not_described_is_named():
    page = cli_page().replace("--best-effort", "").replace("## partita demo\n", "")
    assert list(undocumented(page)) == [
        "docs/cli.md: partita demo is missing",
        "docs/cli.md: partita plan --best-effort is missing",
    ]


def test_the_tables_of_fields_have_every_field():
    tables = workload_tables()
    for field in ("apiVersion", "per_node", "min_replicas", "quantile", "latency_factor", "live_mb"):
        assert f"| `{field}` |" in tables


def test_a_session_shows_what_its_commands_print():
    page = "# A\n\n```console\n$ partita --version\nold\n$ ls examples | head -1\n```\n"
    made = rerun(page, "README.md")
    assert re.fullmatch(
        r"# A\n\n```console\n\$ partita --version\npartita \S+\n\$ ls examples \| head -1\n.+\n```\n", made
    )
    assert rerun(made, "README.md") == made


def test_a_session_that_differs_in_seconds_alone_stays():
    page = "```console\n$ echo took 0.25 s\ntook 0.13 s\n```\n"
    assert rerun(page, "README.md") == page


def test_a_page_has_a_state_folder_of_its_own_and_what_it_left_running_is_ended():
    page = "```console\n$ echo ${PARTITA_STATE##*/}\n$ sleep 60 > log 2>&1 & echo $! | tee it.pid\n```\n"
    found = re.search(r"state\n.*\n(\d+)\n", rerun(page, "README.md"))
    assert found is not None
    status = Path(f"/proc/{found[1]}/stat")
    deadline = time.monotonic() + 30.0
    while status.exists() and " Z " not in status.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not status.exists() or " Z " in status.read_text()


def test_a_session_that_fails_is_named():
    with pytest.raises(SessionError, match=r"README.md: `partita plan -f gone.yaml` exited with 2"):
        rerun("```console\n$ partita plan -f gone.yaml\n```\n", "README.md")

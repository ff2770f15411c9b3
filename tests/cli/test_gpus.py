from __future__ import annotations

import json

import pytest
import typer
import yaml
from typer.testing import CliRunner

from partita.cli import gpus
from partita.errors import InputError
from partita.mig.catalogue import gpu_names

app = typer.Typer()
gpus.register(app)


@app.callback()
def _root() -> None: ...


def run(*arguments: str, width: int = 100, encoding: str = "utf-8") -> str:
    runner = CliRunner(charset=encoding, env={"COLUMNS": str(width)})
    result = runner.invoke(app, ["gpus", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_gpu_of_the_catalogue_is_listed() -> None:
    text = run(width=160)
    for name in gpu_names():
        assert any(line.startswith(f"{name} ") for line in text.splitlines())


def test_the_list_is_data_too() -> None:
    found = json.loads(run("-o", "json"))
    assert [each["name"] for each in found] == list(gpu_names())
    assert yaml.safe_load(run("-o", "yaml")) == found


def test_the_paper_s_profiles_and_rule_give_the_counts_of_the_paper() -> None:
    chosen = ("--profiles", "1g.5gb,2g,3g,4g,7g")
    facts = json.loads(run("show", "a100-40gb", *chosen, "-o", "json"))
    assert (facts["legal_layouts"], len(facts["maximal_layouts"]), facts["multisets"]) == (298, 19, 14)
    facts = json.loads(run("show", "a100-40gb", *chosen, "--forbid", "4g+3g", "-o", "json"))
    assert (len(facts["maximal_layouts"]), facts["multisets"]) == (18, 13)
    assert facts["forbidden"] == ["3g+4g"]


def test_variants_are_cut_only_when_named() -> None:
    assert "+me" not in "".join(json.loads(run("show", "a100-40gb", "-o", "json"))["maximal_layouts"])
    named = json.loads(run("show", "a100-40gb", "--profiles", "1g.5gb+me,3g", "-o", "json"))
    assert any("1g.5gb+me" in layout for layout in named["maximal_layouts"])


@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize("name", ["a100-40gb", "a30-24gb", "rtx-pro-6000-96gb"])
def test_cuts_are_drawn_as_rows_of_one_width_within_the_terminal(name: str, width: int) -> None:
    lines = run("show", name, width=width).splitlines()
    rows = [line for line in lines if line.startswith("│")]
    assert len(rows) == json.loads(run("show", name, "-o", "json"))["multisets"]
    assert len({row.rindex("│") for row in rows}) == 1
    assert max(map(len, rows)) <= width


def test_a_terminal_without_unicode_gets_ascii() -> None:
    text = run("show", "a100-40gb", width=80, encoding="ascii")
    assert text.isascii()
    assert "|3g.20gb " in text


def test_facts_that_nobody_published_are_shown_as_unknown_not_guessed() -> None:
    for name in gpu_names():
        facts = json.loads(run("show", name, "-o", "json"))
        unknown = sum(profile["sms"] is None for profile in facts["profiles"])
        assert unknown == 0 or "?" in run("show", name)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("show", "a100"), "no GPU 'a100'"),
        (("show", "a100-40gb", "--profiles", "5g"), "no profile '5g'"),
        (("show", "a100-40gb", "--forbid", "4g"), "no combination"),
    ],
)
def test_a_name_that_is_not_known_is_refused_with_a_hint(arguments: tuple[str, ...], what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        run(*arguments)
    assert caught.value.hint

"""`partita explain` as a user runs it."""

from __future__ import annotations

import json

from tests.cli.test_plan import SAMPLE, partita


def test_explain_says_what_binds_and_what_a_change_would_do() -> None:
    result = partita("explain", "-f", SAMPLE, "--service", "photo-search")
    assert result.returncode == 0, result.stderr
    assert "latency: batch 64" in result.stdout
    assert "rate +10 %" in result.stdout
    assert "SLO +20 %" in result.stdout
    assert "text-embedding" not in result.stdout


def test_explain_of_an_unknown_service_names_the_nearest() -> None:
    result = partita("explain", "-f", SAMPLE, "--service", "photo-serch")
    assert result.returncode == 2
    assert "photo-search" in result.stderr


def test_explain_in_json_has_every_profile() -> None:
    found = json.loads(partita("explain", "-f", SAMPLE, "--service", "moderation", "-o", "json").stdout)
    profiles = [each["profile"] for each in found[0]["gpus"]["a100-80gb"]]
    assert profiles[0] == "1g.10gb"
    assert profiles[-1] == "7g.80gb"

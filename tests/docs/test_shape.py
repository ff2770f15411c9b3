"""Two texts have one shape just if they say the same of all that is proven or follows from the input."""

from __future__ import annotations

import re

import pytest
from docs.pages import cli_page
from docs.sessions import ROOT
from docs.shape import page_shape, session_shape

PLAN = """\
$ partita plan -f examples/workload.yaml
13 GPUs, proven optimal (bound 13)  exact, 0.09 s

service         rate/s  capacity/s  spare  SLO ms  latency ms  replicas
photo-search     6,000   ≈6,003.52   +0 %     100       ≈46.2  2×4g.40gb,
                                                               1×1g.10gb
autocomplete     3,300   ≈3,642.33  +10 %     150       ≈73.0  4×2g.20gb

× 2  a100-80gb  node-0/gpu-3..4
│3g.40gb                            │3g.40gb                            │
│answer-finder                      │answer-finder                      │

note: resnet50: no measurement on a100-80gb
$ partita apply plan.json --yes
60 actions, about 70 s: 4 create, 21 destroy
16 GPUs in use, 5 at the end, at most 16 of 24 meanwhile
1/2  create instance  node-0/gpu-7 7g.80gb@0
2/2  start replica  photo-search on node-0/gpu-7 7g.80gb@0
state fb2b9586bde0: `--expect fb2b9586bde0` refuses any other
carried out in 69 s, no floor broken; nearest was moderation, 1.4 % above
"""

PICKS = [
    ("0.09 s", "12.50 s"),
    ("≈6,003.52   +0 %", "≈6,103.99   +2 %"),
    ("2×4g.40gb,\n" + " " * 63 + "1×1g.10gb", "2×4g.40gb, 1×1g.10gb"),
    ("4×2g.20gb", "1×7g.80gb,\n" + " " * 63 + "1×3g.40gb"),
    ("node-0/gpu-3..4\n", "node-0/gpu-0\n│7g.80gb│\n│photo-search│\n\n× 1  a100-80gb  node-0/gpu-1\n"),
    ("60 actions, about 70 s: 4 create, 21 destroy", "9 actions, about 6 s: 1 create, 2 start"),
    ("at most 16 of 24", "at most 17 of 24"),
    ("of 24 meanwhile", "of 24 meanwhile, 1 of them extra"),
    ("2/2  start replica  photo-search on node-0/gpu-7 7g.80gb@0", "2/2  stop replica  x on y 1g.10gb@0"),
    ("fb2b9586bde0", "0123456789ab"),
    ("nearest was moderation, 1.4 %", "nearest was photo-search, 0.2 %"),
]
FACTS = [
    ("13 GPUs, proven", "14 GPUs, proven"),
    ("proven optimal (bound 13)", "at most 1 too many (bound 12)"),
    ("(bound 13)", "(bound 12)"),
    ("6,000", "6,001"),
    ("     100  ", "     101  "),
    ("photo-search     6", "photosearch      6"),
    ("autocomplete     3,300   ≈3,642.33  +10 %     150       ≈73.0  4×2g.20gb\n", ""),
    ("spare", "slack"),
    ("note: resnet50: no measurement on a100-80gb\n", ""),
    ("16 GPUs in use", "15 GPUs in use"),
    ("5 at the end", "6 at the end"),
    ("of 24 meanwhile", "of 25 meanwhile"),
    ("no floor broken", "one floor broken"),
    ("--yes", "--force"),
    ("(bound 13)  exact", "(bound 13)  greedy"),
    ("$ partita apply plan.json --yes\n", ""),
]


@pytest.mark.parametrize(("old", "new"), PICKS, ids=[old for old, _ in PICKS])
def test_another_pick_time_or_wrapping_is_the_same_shape(old, new):
    assert old in PLAN
    assert session_shape(PLAN.replace(old, new)) == session_shape(PLAN)


@pytest.mark.parametrize(("old", "new"), FACTS, ids=[old for old, _ in FACTS])
def test_another_fact_is_another_shape(old, new):
    assert old in PLAN
    assert session_shape(PLAN.replace(old, new)) != session_shape(PLAN)


def numbers_and_words() -> list[str]:
    """Return what README's sessions show that no version may change, each to be changed by a test."""
    text = (ROOT / "README.md").read_text()
    (session,) = re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return sorted({*re.findall(r"\d+ GPUs", session)})


@pytest.mark.parametrize("fact", numbers_and_words())
def test_every_number_of_gpus_in_the_readme_is_held(fact):
    text = (ROOT / "README.md").read_text()
    assert session_shape(text.replace(fact, f"9{fact}")) != session_shape(text)


def test_the_page_of_the_command_line_is_compared_by_its_words():
    page = cli_page()
    for old, new in (
        ("[default: simulated]", "[default: nvml]"),
        ("Seconds of search", "Minutes of search"),
        ("--best-effort ", "--best "),
        ("--metrics-listen ", "--metrics-at "),  # between a range, as 0<=x<=1, and a choice, as <text|json>
        ("\n## partita wait\n", "\n## partita await\n"),
    ):
        assert old in page
        assert page_shape(page.replace(old, new)) != page_shape(page)
    other = page.replace("<simulated|nvml>", "[simulated|nvml]").replace(
        "\nUsage: partita", "\nUsage:  partita"
    )
    assert other != page
    assert page_shape(other) == page_shape(page)

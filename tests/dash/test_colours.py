"""The dashboard's colours stay apart, also for eyes that do not tell red from green or blue from yellow."""

from __future__ import annotations

import re
from itertools import combinations
from math import atan2, cos, degrees, exp, hypot, radians, sin, sqrt
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "web/src/colours.ts"

VISIONS = {
    "usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}  # fmt: skip
"""Linear RGB as each eye sees it (Machado, Oliveira and Fernandes 2009, severity 1)."""

LEAST = 10.0
"""CIEDE2000; 2 is what a practised eye just sees side by side."""


def pairs(name: str) -> list[tuple[str, str]]:
    """The colours of a constant, on a light and on a dark ground."""
    found = re.search(rf"export const {name}\b.*?= (.*?);\n", SOURCE.read_text(), re.DOTALL)
    assert found
    return re.findall(r'\["(#[0-9a-f]{6})", "(#[0-9a-f]{6})"\]', found[1])


def channels(colour: str) -> list[float]:
    """Linear RGB of sRGB."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]


def lab(colour: str, vision: str) -> tuple[float, float, float]:
    """CIELAB with the white of D65."""
    rgb = channels(colour)
    seen = [min(1.0, max(0.0, sum(a * b for a, b in zip(row, rgb, strict=True)))) for row in VISIONS[vision]]
    rows = (
        (0.4124564, 0.3575761, 0.1804375, 0.95047),
        (0.2126729, 0.7151522, 0.0721750, 1),
        (0.0193339, 0.1191920, 0.9503041, 1.08883),
    )
    xyz = [sum(a * b for a, b in zip(row, seen, strict=False)) / row[3] for row in rows]
    x, y, z = (t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116 for t in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def difference(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    """CIEDE2000 (Sharma, Wu and Dalal 2005)."""
    (l1, a1, b1), (l2, a2, b2) = one, other
    mean = (hypot(a1, b1) + hypot(a2, b2)) / 2
    g = 0.5 * (1 - sqrt(mean**7 / (mean**7 + 25**7)))
    c1, c2 = hypot(a1 * (1 + g), b1), hypot(a2 * (1 + g), b2)
    h1, h2 = degrees(atan2(b1, a1 * (1 + g))) % 360, degrees(atan2(b2, a2 * (1 + g))) % 360
    turn = 0.0 if c1 * c2 == 0 else (h2 - h1 + 180) % 360 - 180
    h = h1 + h2 if c1 * c2 == 0 else (h1 + turn / 2) % 360
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    t = 1 - 0.17 * cos(radians(h - 30)) + 0.24 * cos(radians(2 * h))
    t += 0.32 * cos(radians(3 * h + 6)) - 0.2 * cos(radians(4 * h - 63))
    dl = (l2 - l1) / (1 + 0.015 * (light - 50) ** 2 / sqrt(20 + (light - 50) ** 2))
    dc = (c2 - c1) / (1 + 0.045 * chroma)
    dh = 2 * sqrt(c1 * c2) * sin(radians(turn / 2)) / (1 + 0.015 * chroma * t)
    rotation = -2 * sqrt(chroma**7 / (chroma**7 + 25**7)) * sin(radians(60 * exp(-(((h - 275) / 25) ** 2))))
    return sqrt(dl**2 + dc**2 + dh**2 + rotation * dc * dh)


def test_the_difference_is_the_published_one() -> None:
    # Pairs 1, 7 and 25 of Sharma, Wu and Dalal's table 1.
    for one, other, wanted in (
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ):
        assert difference(one, other) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("STATES", ("GROUND", "BOARD")),
        ("STEPS", ("GROUND", "NOTHING")),
        ("PROMISE", ("GROUND", "NOTHING")),
        ("LINES", ("GROUND",)),
    ],
)
def test_colours_stay_apart_for_all_eyes(name: str, beside: tuple[str, ...], scheme: int) -> None:
    own = [pair[scheme] for pair in pairs(name)]
    others = [_only(each)[scheme] for each in beside]
    assert len(own) >= 4
    close = [
        (one, other, vision, round(apart, 1))
        for one, other in [*combinations(own, 2), *((one, other) for one in own for other in others)]
        for vision in VISIONS
        if (apart := difference(lab(one, vision), lab(other, vision))) < LEAST
    ]
    assert close == []


def _only(name: str) -> tuple[str, str]:
    """A constant that is one colour."""
    found = re.search(rf'export const {name}: Pair = \["(#\w+)", "(#\w+)"\]', SOURCE.read_text())
    assert found
    return found[1], found[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_lines_stand_out_from_the_ground(scheme: int) -> None:
    def luminance(colour: str) -> float:
        return sum(a * b for a, b in zip((0.2126, 0.7152, 0.0722), channels(colour), strict=True))

    ground = luminance(_only("GROUND")[scheme])
    for pair in pairs("LINES"):
        low, high = sorted((ground, luminance(pair[scheme])))
        assert (high + 0.05) / (low + 0.05) >= 3, pair  # WCAG 2.2, 1.4.11

"""The actions of a transition per GPU over time."""

from __future__ import annotations

from collections import defaultdict
from html import escape
from typing import TYPE_CHECKING

from partita.transition.transition import Kind
from partita.web.charts import Scale, axis
from partita.web.page import left_out, look

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from partita.transition.overview import Bar

MOST_GPUS = 256
_SIGNS = {
    Kind.CREATE_INSTANCE: "+",
    Kind.DESTROY_INSTANCE: "\N{MULTIPLICATION SIGN}",
    Kind.START_REPLICA: "\N{BLACK RIGHT-POINTING TRIANGLE}",
    Kind.STOP_REPLICA: "\N{BLACK SQUARE}",
}

LEGEND = (
    "<p class=legend><span class='bar start'>▶ 1 service</span> a replica starts, ready at its right end "
    "<span class='bar stop'>■ 1 service</span> a replica drains and stops "
    "<span class='bar create'>+</span> an instance is created "
    "<span class='bar destroy'>&times;</span> an instance is destroyed. "
    "A lane is an instance; numbers and hatches are those of the services.</p>"
)


def gantt(bars: Sequence[Bar], scale: Scale, numbers: Mapping[str, int]) -> Iterator[str]:
    """Yield a row for each GPU that anything happens on, in the order in which it begins.

    Args:
        bars: actions with their times.
        scale: the seconds that it shows.
        numbers: of the services.
    """
    per_gpu: dict[str, list[Bar]] = defaultdict(list)
    for bar in bars:
        per_gpu[bar.action.gpu].append(bar)
    yield f'<div class=gantt style="--step:{_step(scale)}">'
    yield f"<div class=gpu-row><span></span>{axis(scale)}</div>"
    for name, mine in list(per_gpu.items())[:MOST_GPUS]:
        lanes = _lanes(mine)
        yield f'<div class=gpu-row><span>{escape(name)}</span><div class=track style="--lanes:{len(lanes)}">'
        for number, lane in enumerate(lanes):
            yield from (_bar(bar, number, scale, numbers) for bar in lane)
        yield "</div></div>"
    yield "</div>"
    yield from left_out(len(per_gpu) - MOST_GPUS, "GPUs change and are not drawn")


def _lanes(bars: Sequence[Bar]) -> list[list[Bar]]:
    """Return the bars in lanes, what happens on one placement side by side, as few lanes as that takes."""
    runs: dict[object, list[Bar]] = defaultdict(list)
    for bar in sorted(bars, key=lambda bar: (bar.begin, bar.end)):
        runs[bar.action.placement].append(bar)
    lanes: list[list[Bar]] = []
    for run in sorted(runs.values(), key=lambda run: (run[0].begin, run[0].action.placement)):
        free = next((lane for lane in lanes if lane[-1].end <= run[0].begin + 1e-9), None)
        if free is None:
            lanes.append(run)
        else:
            free.extend(run)
    return lanes


def _bar(bar: Bar, lane: int, scale: Scale, numbers: Mapping[str, int]) -> str:
    action = bar.action
    words = action.kind.value.replace("_", " ")
    kind = action.kind.value.partition("_")[0]
    text, style = _SIGNS[action.kind], ""
    if action.replica is not None:
        number = numbers[action.replica.service]
        text += f" {number} {escape(action.replica.service)}"
        style = " " + look(number)
        words += f" {action.replica.service}"
    else:
        text += f" {escape(action.placement.profile)}"
    hint = escape(f"{words} on {action.placement}, {bar.begin:.1f} to {bar.end:.1f} s")
    left, right = scale.share(bar.begin), scale.share(bar.end)
    return (
        f'<b class="bar {kind}{style}" style="--lane:{lane};left:{left:.3%};width:{right - left:.3%}" '
        f'title="{hint}">{text}</b>'
    )


def _step(scale: Scale) -> str:
    marks = scale.ticks()
    return f"{scale.share(marks[1]):.3%}" if len(marks) > 1 else "100%"

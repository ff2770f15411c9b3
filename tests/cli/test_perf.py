from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import yaml

from partita.cli.main import main
from partita.perf.reading import read_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TABLE = """\
model,gpu,profile,batch,processes,throughput,latency_ms,quantile,estimated
bert,a100-80gb,1g.10gb,1,1,74,13.4,mean,
bert,a100-80gb,1g.10gb,8,1,102,78.5,mean,
bert,a100-80gb,1g.10gb,1,2,105,19.1,mean,
bert,a100-80gb,7g.80gb,1,1,69,14.5,mean,
bert,a100-80gb,7g.80gb,8,1,219,36.5,mean,
guess,a30-24gb,1g.6gb,4,1,10,400,mean,true
guess,a30-24gb,4g.24gb,4,1,50,80,mean,true
"""


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def partita(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs the command in this process, as `main` does it: a process of its own takes half a second each."""

    def run(*words: object, columns: int = 80, stdin: str = "") -> Done:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr("sys.argv", ["partita", "perf", *map(str, words)])
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return Done(int(left.value.code or 0), out, err)

    return run


@pytest.fixture
def perf_csv(tmp_path: Path) -> Path:
    path = tmp_path / "perf.csv"
    path.write_text(TABLE)
    return path


def test_check_says_what_a_table_holds_and_where_it_has_gaps(
    partita: Callable[..., Done], perf_csv: Path
) -> None:
    done = partita("check", perf_csv, "-o", "json")
    assert done.returncode == 0
    bert, guess = json.loads(done.stdout)
    assert bert == {
        "model": "bert",
        "gpu": "a100-80gb",
        "rows": 5,
        "estimated": 0,
        "profiles": {"1g.10gb": 3, "7g.80gb": 2},
        "missing": ["1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb"],
        "batches": [1, 8],
        "processes": [1, 2],
        "quantiles": ["mean"],
    }
    assert guess["estimated"] == 2


def test_check_marks_estimates_and_explains_the_mark(partita: Callable[..., Done], perf_csv: Path) -> None:
    shown = partita("check", perf_csv).stdout
    assert "≈\N{NO-BREAK SPACE}guess" in shown
    assert "≈ estimated by a formula, not measured" in shown
    assert "7 rows, 2 models, 2 GPUs" in shown


def test_check_lists_faults_on_stderr_and_exits_2(partita: Callable[..., Done], perf_csv: Path) -> None:
    perf_csv.write_text(TABLE.replace(",74,", ",-74,").replace(",50,", ",x,"))
    done = partita("check", perf_csv)
    assert (done.returncode, done.stdout) == (2, "")
    assert "perf.csv:2: throughput is '-74': it must be above zero" in done.stderr
    assert "perf.csv:8: throughput is 'x': not a number" in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_table_can_come_from_stdin(partita: Callable[..., Done]) -> None:
    assert partita("check", "-", stdin=TABLE).returncode == 0


@pytest.mark.parametrize("columns", [80, 160])
def test_show_keeps_to_the_width_of_the_terminal(
    partita: Callable[..., Done], perf_csv: Path, columns: int
) -> None:
    done = partita("show", perf_csv, "--model", "bert", "--slo", "20", columns=columns)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert max(map(len, lines)) > columns * 0.7
    assert any("█" in line for line in lines)
    assert any("░" in line for line in lines)


def test_show_gives_the_operating_point_under_an_slo(partita: Callable[..., Done], perf_csv: Path) -> None:
    (shown,) = json.loads(partita("show", perf_csv, "--model", "bert", "--slo", "20", "-o", "json").stdout)
    best = {point["profile"]: (point["batch"], point["processes"]) for point in shown["best"]}
    under = {point["profile"]: (point["batch"], point["processes"]) for point in shown["operating_points"]}
    assert best == {"1g.10gb": (1, 2), "7g.80gb": (8, 1)}
    assert under == {"1g.10gb": (1, 2), "7g.80gb": (1, 1)}
    assert shown["classes"] == [
        {"batch": 1, "class": "sub-linear", "ratio": 0.932},
        {"batch": 8, "class": "sub-linear", "ratio": 2.147},
    ]


def test_show_says_where_no_point_keeps_the_slo(partita: Callable[..., Done], perf_csv: Path) -> None:
    assert "none" in partita("show", perf_csv, "--model", "guess", "--slo", "100").stdout


def test_show_can_leave_out_processes(partita: Callable[..., Done], perf_csv: Path) -> None:
    words = ("show", perf_csv, "--model", "bert", "--max-processes", "1", "-o", "yaml")
    (shown,) = yaml.safe_load(partita(*words).stdout)
    assert shown["best"][0]["batch"] == 8


def test_show_marks_estimates_on_every_number(partita: Callable[..., Done], perf_csv: Path) -> None:
    shown = partita("show", perf_csv, "--gpu", "a30-24gb").stdout
    assert "≈ guess on a30-24gb" in shown
    assert "≈50" in shown
    assert "≈ estimated by a formula" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "brt"], "did you mean bert?"),
        (["--gpu", "a100-40gb"], "did you mean a100-80gb?"),
        (["--model", "bert", "--gpu", "a30-24gb"], "no rows of 'bert' on 'a30-24gb'"),
        (["--quantile", "p99"], "no latency at quantile 0.99"),
        (["--quantile", "99"], "it must lie between 0 and 1"),
        (["--slo", "0"], "an SLO of 0 ms cannot be kept"),
        (["--slo", "nan"], "--slo: must be a finite number, not nan"),
    ],
)
def test_show_refuses_what_is_not_there(
    partita: Callable[..., Done], perf_csv: Path, words: list[str], said: str
) -> None:
    done = partita("show", perf_csv, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_estimate_of_one_model_goes_to_stdout_as_a_table(
    partita: Callable[..., Done], tmp_path: Path
) -> None:
    words = (
        "--model",
        "m",
        "--gflop",
        8,
        "--mbytes",
        300,
        "--weights-mb",
        100,
        "--gpu",
        "a30-24gb",
        "--batches",
        "1,8",
    )
    done = partita("estimate", *words)
    assert done.returncode == 0
    assert done.stderr == ""
    path = tmp_path / "perf.csv"
    path.write_text(done.stdout)
    assert {(row.profile, row.batch) for row in read_table(path)} == {
        (profile, batch) for profile in ("1g.6gb", "2g.12gb", "4g.24gb") for batch in (1, 8)
    }


def test_estimate_says_which_model_fits_no_profile(partita: Callable[..., Done], tmp_path: Path) -> None:
    works = tmp_path / "models.csv"
    works.write_text("model,gflop,mbytes,weights_mb\nsmall,1,1,1\nvast,1,1,50000\n")
    done = partita("estimate", works, "--gpu", "a30-24gb", "--out", tmp_path / "perf.parquet")
    assert done.returncode == 0
    assert done.stdout == ""
    assert "note: vast fits no profile of a30-24gb" in done.stderr
    assert read_table(tmp_path / "perf.parquet").models == ("small",)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpu", "a30-24gb"], "nothing to estimate"),
        (["--gpu", "a30-24gb", "--model", "m", "--gflop", "1"], "nothing to estimate"),
        (["--gpu", "a30-24g"], "did you mean a30-24gb?"),
        (["--gpu", "a30-24gb", "--batches", "1,x"], "'1,x' are not batch sizes"),
        (["--gpu", "a30-24gb", "--weights-mb", "1e9"], "no model fits any profile"),
    ],
)
def test_estimate_refuses_what_it_cannot_use(
    partita: Callable[..., Done], words: list[str], said: str
) -> None:
    whole = ["--model", "m", "--gflop", "1", "--mbytes", "1", "--weights-mb", "1"]
    done = partita("estimate", *([] if said.startswith("nothing") else whole), *words)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_models_name_is_shown_as_it_is(partita: Callable[..., Done], perf_csv: Path) -> None:
    perf_csv.write_text(TABLE.replace("bert", "[red]b"))
    assert "[red]b " in partita("check", perf_csv).stdout
    assert "[red]b on a100-80gb" in partita("show", perf_csv, "--gpu", "a100-80gb").stdout
    assert "note: [red]b on a100-80gb" in partita("show", perf_csv, "--quantile", "p99").stderr

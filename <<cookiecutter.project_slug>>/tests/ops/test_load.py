"""The verdict on a run of the load test, and what it refuses. The runs themselves: tests/system/test_load.py."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from load import __main__ as command
from load import journeys, service
from load.objectives import FAILED_PERCENT, P95_SECONDS, Limits, Measured, Report, Step, table, verdict

ROOT = Path(__file__).resolve().parents[2]
LOOK, WAIT = Step("thing: look"), Step("thing: wait", p95=10)
GOOD = Measured("thing: look", requests=1000, failures=0, p50=0.1, p95=0.7, p99=2, per_second=5)
WAITED = Measured("thing: wait", requests=1000, failures=1, p50=1, p95=9, p99=12, per_second=5)


def test_a_promise_that_is_kept_is_kept() -> None:
    """Also with a failure, where there are few enough; and what is slower than all but 5 % does not count."""
    assert verdict(Report([GOOD, WAITED]), [LOOK, WAIT], Limits()) == []


@pytest.mark.parametrize(
    ("measured", "broken"),
    [
        ([replace(GOOD, p95=0.81), WAITED], "thing: look: p95 is 0.810 s; 0.8 s are promised"),
        ([GOOD, replace(WAITED, p95=10.1)], "thing: wait: p95 is 10.100 s; 10 s are promised"),
        ([GOOD, replace(WAITED, failures=3)], "0.15 % of 2000 requests failed; 0.1 % may"),
        ([GOOD], "thing: wait: never done"),
    ],
)
def test_a_broken_promise_is_named(measured: list[Measured], broken: str) -> None:
    """And only that one."""
    (found,) = verdict(Report(measured), [LOOK, WAIT], Limits())
    assert found.startswith(broken)


def test_nothing_done_and_a_broken_journey_are_no_success() -> None:
    """Neither has a time that is too long."""
    assert len(verdict(Report([]), [LOOK, WAIT], Limits())) == 2
    assert verdict(Report([GOOD], faults=["KeyError: 'id'"]), [LOOK], Limits()) == [
        "a journey is wrong: KeyError: 'id'"
    ]


def test_slack_and_share_move_the_limits() -> None:
    """Both ways."""
    assert verdict(Report([replace(GOOD, p95=1.5)]), [LOOK], Limits(slack=2)) == []
    assert verdict(Report([GOOD]), [LOOK], Limits(slack=0.5))
    assert verdict(Report([replace(GOOD, failures=50)]), [LOOK], Limits(failed_percent=5)) == []


def test_the_table_shows_what_is_too_slow_and_what_nobody_promised() -> None:
    """In the order of the steps."""
    other = replace(GOOD, name="another")
    lines = table(Report([other, replace(WAITED, p95=11), GOOD]), [LOOK, WAIT], Limits()).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["thing: look", "thing: wait", "another"]
    assert ["too slow" in line for line in lines] == [False, False, True, False]


def test_every_step_has_a_name_of_its_own() -> None:
    """Whatever journeys there are: two steps of one name would be counted as one."""
    names = [step.name for step in journeys.steps(journeys.found(), tokens=False)]
    assert names
    assert len(names) == len(set(names))
    assert set(journeys.steps(journeys.found(), tokens=True)) <= set(journeys.steps(journeys.found(), tokens=False))


def test_what_is_promised_here_is_what_alarms_watch() -> None:
    """One promise, wherever it is written."""
    told = (ROOT / "docs/runbook/slo.md").read_text()
    assert re.search(r"([\d.]+) % of requests\s+end without a server error", told)
    assert f"{100 - FAILED_PERCENT:g} % of requests" in told
    assert f"within {P95_SECONDS:g} s" in told
    for rules in ROOT.glob("ops/*/rules/slo.yml"):
        assert f'le="{P95_SECONDS:g}"' in rules.read_text()


@pytest.mark.parametrize(
    "host", ["service.example.com", "SERVICE.example.com", "service.example.com.", "service.example.com:8443"]
)
def test_production_is_refused_unless_it_is_insisted_on(tmp_path: Path, host: str) -> None:
    """However its name is written; before anything is sent there."""
    (tmp_path / "pyproject.toml").write_text('[tool.service]\ndomain = "Service.example.com"\n')
    with pytest.raises(service.Refused, match="FORCE=1"):
        service.running(f"https://{host}/", force=False, root=tmp_path)


@pytest.mark.parametrize("url", ["staging.example.com", "ftp://staging.example.com", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    """With an example of one."""
    with pytest.raises(service.Refused, match="URL=https://"):
        service.running(url, force=False)


def test_nobody_there_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With another exit code than a broken promise; and so is what is not installed."""
    monkeypatch.setenv("LOAD_TOKENS", "some")
    monkeypatch.setattr(command, "PYTHON", Path(sys.executable))
    assert command.main(["--url", "http://127.0.0.1:1"]) == 2
    assert "does not answer" in capsys.readouterr().err
    monkeypatch.setattr(command, "PYTHON", tmp_path / "bin" / "python")
    assert command.main([]) == 2
    assert "make load" in capsys.readouterr().err

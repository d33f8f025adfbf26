"""Logs: one line of JSON for each event, and never a secret or an address in it."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import structlog

from app.core.logging import announce, configure_logging, json_line, request_id, user_id
from app.core.masking import MASK
from app.core.project import ROOT

if TYPE_CHECKING:
    from app.core.settings import Settings
    from tests.core.conftest import SettingsWith


@pytest.fixture
def lines(capsysbinary: pytest.CaptureFixture[bytes], settings: "Settings") -> Iterator[Any]:
    """Sets logging up as in the API, and returns what gives the lines written since the last look.

    To be called within the test: only there pytest holds the standard output that the test can read.
    """
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def read() -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in capsysbinary.readouterr().out.splitlines()]

    def begin() -> Callable[[], list[dict[str, Any]]]:
        configure_logging(settings, "api")
        return read

    yield begin
    root.handlers[:] = before[0]
    root.setLevel(before[1])


def test_one_line_for_each_event(lines: Any) -> None:
    """Whatever is in it: newlines, bytes, half surrogates, numbers beyond 64 bits, objects."""
    read = lines()
    log = structlog.get_logger("app.test")
    log.info("two\nlines", odd={"a": b"\xff", "n": 2**70, "s": "\ud800", 5: object()})
    log.warning("next")
    first, second = read()
    assert first["event"] == "two\nlines"
    assert (first["level"], first["service"]) == ("info", "api")
    assert first["timestamp"].endswith("Z")
    assert second["event"] == "next"


def test_libraries_pass_through_the_same_chain(lines: Any) -> None:
    """A child logger of the standard library, with arguments, extras and an exception, comes out the same way."""
    read = lines()
    library = logging.getLogger("some.library.deep")
    library.warning("cannot mail %s", "ada@example.com", extra={"password": "hunter2", "user": "x"})
    try:
        raise RuntimeError("at postgresql://app:hunter2@db/app")
    except RuntimeError:
        library.exception("failed for %s", "bob@example.com")
    first, second = read()
    assert first["event"] == f"cannot mail {MASK}"
    assert (first["password"], first["user"]) == (MASK, "x")
    assert second["event"] == f"failed for {MASK}"
    assert "RuntimeError" in second["exception"]
    assert "hunter2" not in json.dumps([first, second])


def test_exceptions_of_our_own(lines: Any) -> None:
    """The traceback is one field of the line, masked as everything."""
    read = lines()
    log = structlog.get_logger("app.test")
    try:
        raise RuntimeError("ada@example.com")
    except RuntimeError as error:
        log.exception("failed")
        log.warning("again", error=error)
    first, second = read()
    assert "Traceback" in first["exception"]
    assert second["error"] == f"RuntimeError('{MASK}')"
    assert "ada@" not in json.dumps([first, second])


def test_the_context_is_in_every_line(lines: Any) -> None:
    """Request and user, also in a library's lines."""
    read = lines()
    request, user = request_id.set("request-0001"), user_id.set("somebody")
    try:
        structlog.get_logger().info("x")
        logging.getLogger("some.library").info("y")
    finally:
        request_id.reset(request)
        user_id.reset(user)
    structlog.get_logger().info("z")
    *within, outside = read()
    assert [(line["request_id"], line["user_id"]) for line in within] == [("request-0001", "somebody")] * 2
    assert "request_id" not in outside


@pytest.mark.parametrize(
    ("environment", "level", "written"),
    [
        ("development", "", "debug info info warning warning"),
        ("staging", "", "info info warning warning"),
        ("development", "ERROR", ""),
    ],
)
def test_levels(
    capsysbinary: pytest.CaptureFixture[bytes],
    settings_with: "SettingsWith",
    environment: str,
    level: str,
    written: str,
) -> None:
    """By environment, unless LOG_LEVEL says otherwise; for libraries as for us, but for their DEBUG."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        configure_logging(settings_with(ENVIRONMENT=environment, LOG_LEVEL=level), "api")
        ours, library = structlog.get_logger(f"app.{environment}{level}"), logging.getLogger("some.library")
        for name in ("debug", "info", "warning"):
            getattr(ours, name)(name)
            getattr(library, name)(name)
        seen = [orjson.loads(line)["event"] for line in capsysbinary.readouterr().out.splitlines()]
        assert seen == written.split()
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])


def test_start_and_end_are_always_logged(
    capsysbinary: pytest.CaptureFixture[bytes], settings_with: "SettingsWith"
) -> None:
    """Whatever the level, with the service's name and without a secret."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        configure_logging(settings_with(LOG_LEVEL="ERROR"), "worker")
        announce("started", settings={"database_port": 5432, "auth_secret_key": "hunter2"})
        (line,) = [orjson.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
        assert (line["event"], line["level"], line["service"]) == ("started", "info", "worker")
        assert line["settings"] == {"database_port": 5432, "auth_secret_key": MASK}
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])


def test_locals_and_arguments_are_not_logged(lines: Any) -> None:
    """A traceback shows the code, not what was in it; and what a deeper cause says is masked as well."""
    read = lines()

    def fail(argument: str) -> None:
        local = argument.upper()
        raise RuntimeError(f"no luck with {len(local)} characters")

    try:
        try:
            raise ValueError("password='hunter2'")
        except ValueError:
            fail("hunter3")
    except RuntimeError:
        structlog.get_logger("app.test").exception("failed")
    (line,) = read()
    assert "characters" in line["exception"]
    assert "ValueError: password=***" in line["exception"]
    for secret in ("hunter2", "hunter3", "HUNTER3"):
        assert f"'{secret}'" not in line["exception"]


def test_a_bound_logger_masks_what_is_bound(lines: Any) -> None:
    """A child logger with values of its own, at any depth."""
    read = lines()
    child = structlog.get_logger("app.test").bind(user={"email": "ada@example.com", "id": 5}, api_key="hunter2")
    child.bind(headers=[("Cookie", "session=hunter3")]).info("x")
    logging.getLogger("app.test.child").warning("y %(password)s", {"password": "hunter4"})
    first, second = read()
    assert first["user"] == {"email": MASK, "id": 5}
    assert first["api_key"] == MASK
    assert first["headers"] == [["Cookie", MASK]]
    # An argument's name is gone once it is in the text: such a line cannot be mended, only not be written.
    assert second["event"].startswith("y ")


def test_a_line_can_always_be_written() -> None:
    """What JSON does not know is written as its repr."""
    assert orjson.loads(json_line({"event": "x", "thing": {1, 2}, "type": int}))["type"] == "<class 'int'>"
    assert json.loads(json_line({"event": "\ud800", "n": 10**30}))["n"] == 10**30


def test_the_console_is_for_people(settings: "Settings") -> None:
    """LOG_FORMAT=console writes no JSON, and masks all the same."""
    code = (
        "import structlog; from app.core.logging import configure_logging; from app.core.settings import Settings, Log;"
        "configure_logging(Settings(log=Log(format='console')), 'api');"
        "structlog.get_logger().info('hello ada@example.com')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    )
    assert "hello ***" in result.stdout
    assert not result.stdout.startswith("{")

"""Delivery by providers that are there, away, silent, slow, overloaded or of two minds: see devstack/standin_messages."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, func, select, update

from app.core.health import check_parts
from app.core.messages import (
    Channel,
    Email,
    Message,
    MessageRow,
    Push,
    SlackNote,
    Sms,
    State,
    device_is_back,
    devices_gone,
    kept,
    send,
)
from app.core.messages.lanes import look, receipts, work_off
from app.core.messages.models import Lane
from app.core.messages.sealing import seal
from app.core.messages.senders import retry_after
from app.core.outbox import OutboxTask
from devstack.standin_messages import Fault, StandInHttp, StandInMail, own_certificate

if TYPE_CHECKING:
    from app.core.resources import Resources
    from tests.core.conftest import RunService, SettingsWith

MAIL = Email(to="ada@example.com", subject="Reset", text="https://example.com/reset?token=abc")
SMS = Sms(to="+4915112345678", text="Your code is 123456")
PUSH = Push(to="ExponentPushToken[abc]", title="Ready", data={"id": 1})
NOTE = SlackNote(text="<!channel> look at <https://evil.example|this> & that")
DAY = timedelta(days=1)


@pytest.fixture
async def mail() -> AsyncIterator[StandInMail]:
    """A mail server that everybody may use."""
    async with StandInMail().serving() as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[StandInHttp]:
    """The other providers."""
    async with StandInHttp().serving() as server:
        yield server


@pytest.fixture
def variables(mail: StandInMail, http: StandInHttp) -> dict[str, object]:
    """The settings with which these are the providers."""
    return {
        "MESSAGES_MODE": "live",
        "MESSAGES_FROM_ADDRESS": "service@example.org",
        "MESSAGES_SMTP_HOST": "127.0.0.1",
        "MESSAGES_SMTP_PORT": mail.port,
        "MESSAGES_SMTP_TLS": "none",
        "MESSAGES_SMS_BASE_URL": http.url,
        "MESSAGES_SMS_ACCOUNT": http.account,
        "MESSAGES_SMS_TOKEN": http.token,
        "MESSAGES_SMS_FROM": "+4930123456",
        "MESSAGES_PUSH_BASE_URL": f"{http.url}/push",
        "MESSAGES_PUSH_TOKEN": "expo-token",
        "MESSAGES_SLACK_WEBHOOK_URL": f"{http.url}/services/T0/B0/secret",
        "MESSAGES_TIMEOUT_SECONDS": "10",
        "MESSAGES_RETRY_SECONDS": "60",
        "MESSAGES_LONGEST_PAUSE_SECONDS": "60",
    }


@pytest.fixture
def live(resources: "Resources", settings_with: "SettingsWith", variables: dict[str, object]) -> "Live":
    """The service with these providers."""
    return lambda **changed: replace(resources, settings=settings_with(**variables | changed))


Live = Callable[..., "Resources"]


async def put(resources: "Resources", *messages: Message) -> list[Any]:
    """Send in one transaction."""
    async with resources.db.transaction() as session:
        return [await send(session, message) for message in messages]


async def rows(resources: "Resources") -> list[MessageRow]:
    """Every message, oldest first."""
    async with resources.db.read() as session:
        return list(await session.scalars(select(MessageRow).order_by(MessageRow.id)))


async def health_of(resources: "Resources") -> str | None:
    """What /health/detailed says is wrong with messages."""
    return (await check_parts(resources, only=frozenset({"messages"})))["messages"].error


async def lane(resources: "Resources", channel: Channel) -> Lane | None:
    """What is known of a channel."""
    async with resources.db.read() as session:
        return await session.get(Lane, channel)


async def hurry(resources: "Resources") -> None:
    """The waits are over, as time would have it."""
    async with resources.db.transaction() as session:
        await session.execute(update(MessageRow).values(due_at=func.now()))
        await session.execute(update(Lane).values(paused_until=func.now(), owned_until=func.now()))


async def test_every_channel_delivers_and_forgets_what_it_said(
    live: Live, mail: StandInMail, http: StandInHttp
) -> None:
    """The providers get what was sent, in their own form; the table keeps that it went, not what it said."""
    resources = live(MESSAGES_FROM_NAME="The Service")
    html = Email(
        to="ada@example.com", name="Ädä", subject="Grüße", text="Höllo", html="<p>Höllo</p>", reply_to="us@example.org"
    )
    ids = await put(resources, html, SMS, PUSH, NOTE)
    for channel in Channel:
        await work_off(resources, channel)
    (letter,) = mail.mails
    assert letter["Message-ID"] == f"<{ids[0]}@example.org>"
    assert letter["From"] == "The Service <service@example.org>"
    assert letter["Reply-To"] == "us@example.org"
    assert "ada@example.com" in letter["To"]
    assert [part.get_content_type() for part in letter.walk()] == ["multipart/alternative", "text/plain", "text/html"]
    text, push, note = http.taken
    assert text.form == {"To": SMS.to, "From": "+4930123456", "Body": SMS.text}
    assert text.headers["idempotency-key"] == str(ids[1])
    assert push.json == {"to": PUSH.to, "title": "Ready", "body": "", "data": {"id": 1}}
    assert push.headers["authorization"] == "Bearer expo-token"
    assert note.json == {"text": "&lt;!channel&gt; look at &lt;https://evil.example|this&gt; &amp; that"}
    found = await rows(resources)
    assert [(row.state, row.attempts, row.error) for row in found] == [(State.SENT, 1, None)] * 4
    assert [row.sealed is None for row in found] == [True, True, False, True], "a receipt is read by the token"
    async with resources.db.read() as session:
        assert await kept(session) == []


async def test_mail_by_an_encrypted_connection_with_sign_in(live: Live, tmp_path: Path) -> None:
    """STARTTLS with an authority of our own; a wrong password, or a certificate nobody knows, is the channel's fault."""
    certificate, authority = own_certificate(tmp_path)
    server = StandInMail(user="app", password="right", certificate=certificate)
    async with server.serving():
        secure = {"MESSAGES_SMTP_PORT": server.port, "MESSAGES_SMTP_TLS": "starttls", "MESSAGES_SMTP_USER": "app"}
        known = {"MESSAGES_SMTP_CA_FILE": authority}
        await put(live(), MAIL)
        for fault, changed in (
            ("SMTPAuthenticationError (SMTP 535)", {**known, "MESSAGES_SMTP_PASSWORD": "wrong"}),
            ("SSLCertVerificationError", {"MESSAGES_SMTP_PASSWORD": "right"}),
        ):
            resources = live(**secure, **changed)
            await hurry(resources)
            await work_off(resources, Channel.EMAIL)
            (row,) = await rows(resources)
            assert (row.state, row.error) == (State.QUEUED, fault)
        assert server.mails == []
        resources = live(**secure, **known, MESSAGES_SMTP_PASSWORD="right")
        await hurry(resources)
        await work_off(resources, Channel.EMAIL)
        assert len(server.mails) == 1


async def test_what_was_swapped_does_not_go_out(live: Live, mail: StandInMail) -> None:
    """Whoever can write to the table cannot have a link that is meant for Ada sent to themselves."""
    resources = live()
    ada, eve = await put(resources, MAIL, MAIL.model_copy(update={"to": "eve@example.com"}))
    async with resources.db.transaction() as session:
        of_ada = select(MessageRow.sealed).where(MessageRow.id == ada).scalar_subquery()
        await session.execute(update(MessageRow).where(MessageRow.id == eve).values(sealed=of_ada))
    await work_off(resources, Channel.EMAIL)
    assert [letter["To"] for letter in mail.mails] == [MAIL.to]
    first, second = await rows(resources)
    assert (first.state, second.state, second.error) == (State.SENT, State.QUEUED, "ValueRefused")


async def test_what_the_version_before_wrote_goes_out(live: Live, mail: StandInMail) -> None:
    """It wrote plain text, and its messages wait while this one is deployed; what is over is erased all the same."""
    resources = live()
    await put(resources, MAIL)
    async with resources.db.transaction() as session:
        await session.execute(update(MessageRow).values(sealed=None, content=MAIL.model_dump_json()))
        assert await kept(session) == [MAIL]
    await work_off(resources, Channel.EMAIL)
    (letter,) = mail.mails
    assert letter["To"] == MAIL.to
    (row,) = await rows(resources)
    assert (row.state, row.sealed, row.content) == (State.SENT, None, None)


@pytest.mark.parametrize(
    ("channel", "fault", "state", "error"),
    [
        (Channel.EMAIL, Fault("status", 550), State.FAILED, "SMTPDataError (SMTP 550)"),
        (Channel.EMAIL, Fault("status", 451), State.QUEUED, "SMTPDataError (SMTP 451)"),
        (Channel.EMAIL, Fault("status", 421), State.QUEUED, "SMTPDataError (SMTP 421)"),
        (Channel.EMAIL, Fault("hang"), State.QUEUED, "no answer in time"),
        (Channel.SMS, Fault("status", 400, body='{"code": 21211}'), State.FAILED, "HTTP 400, code 21211"),
        (Channel.SMS, Fault("status", 401), State.QUEUED, "does not know us (HTTP 401)"),
        (Channel.SMS, Fault("status", 500), State.QUEUED, "HTTP 500"),
        (Channel.SMS, Fault("status", 302), State.QUEUED, "not an answer (HTTP 302)"),
        (Channel.SMS, Fault("hang"), State.QUEUED, "no answer in time"),
        (Channel.SMS, Fault("endless"), State.QUEUED, "the answer has no end"),
        (Channel.PUSH, Fault("status", 400), State.FAILED, "HTTP 400"),
        (Channel.PUSH, Fault("status", 200, body="[]"), State.FAILED, "HTTP 200"),
        (Channel.SLACK, Fault("status", 400, body="invalid_payload"), State.FAILED, "HTTP 400"),
        (Channel.SLACK, Fault("status", 404), State.QUEUED, "the webhook is gone (HTTP 404)"),
    ],
    ids=str,
)
async def test_what_an_answer_means(
    live: Live, mail: StandInMail, http: StandInHttp, channel: Channel, fault: Fault, state: State, error: str
) -> None:
    """A refusal of this message is final and erases it; what passes is tried again; nothing personal is noted."""
    resources = live(MESSAGES_TIMEOUT_SECONDS=0.3 if fault.kind == "hang" else 10)
    by_channel = {message.channel: message for message in (MAIL, SMS, PUSH, NOTE)}
    await put(resources, by_channel[channel])
    mail.faults, http.faults = [fault], [fault]
    await work_off(resources, channel)
    (row,) = await rows(resources)
    assert (row.state, row.attempts) == (state, 1)
    assert row.error in (error, "ReadTimeout" if fault.kind == "hang" else error, "SMTPReadTimeoutError")
    assert (row.sealed is None) is (state == State.FAILED)


@pytest.mark.parametrize("channel", [Channel.EMAIL, Channel.SMS])
async def test_taken_and_then_the_line_is_cut(
    live: Live, mail: StandInMail, http: StandInHttp, channel: Channel
) -> None:
    """Nobody knows whether it was taken, so it is sent again under the same identity, by which one is made of the two."""
    resources = live()
    (identity,) = await put(resources, MAIL if channel is Channel.EMAIL else SMS)
    mail.faults, http.faults = [Fault("drop")], [Fault("drop")]
    await work_off(resources, channel)
    (row,) = await rows(resources)
    assert row.state == State.QUEUED
    await hurry(resources)
    await work_off(resources, channel)
    (row,) = await rows(resources)
    assert (row.state, row.attempts) == (State.SENT, 2)
    if channel is Channel.EMAIL:
        assert {letter["Message-ID"] for letter in mail.mails} == {f"<{identity}@example.org>"}
        assert len(mail.mails) == 2
    else:
        assert len(http.requests) == 2
        assert len(http.taken) == 1


async def test_a_worker_is_killed_between_acceptance_and_our_note_of_it(
    live: Live,
    resources: "Resources",
    mail: StandInMail,
    variables: dict[str, object],
    run_service: "RunService",
    eventually: Any,
) -> None:
    """The message is not lost: whoever comes next sends it again, under the same identity."""
    mail.faults = [Fault("taken_hang")]
    environment = {name: str(value) for name, value in variables.items()} | {"MESSAGES_TIMEOUT_SECONDS": "30"}
    worker = run_service("worker", "--concurrency", "1", **environment)
    await put(resources, MAIL)
    await eventually(lambda: mail.mails)
    worker.kill()
    again = live()
    await work_off(again, Channel.EMAIL)
    (row,) = await rows(again)
    assert (row.state, len(mail.mails)) == (State.SENDING, 1), "it may still be at it"
    await hurry(again)
    await work_off(again, Channel.EMAIL)
    (row,) = await rows(again)
    assert (row.state, row.attempts, row.sealed) == (State.SENT, 2, None)
    assert len({letter["Message-ID"] for letter in mail.mails}) == 1


class TestOutage:
    """A provider is away: everything waits, and goes out when it is back."""

    async def test_one_request_a_pause_however_many_wait(
        self, live: Live, http: StandInHttp, mail: StandInMail
    ) -> None:
        """The others are not even tried, another channel is not held up, and all arrive once when it is over."""
        resources = live()
        http.always = Fault("status", 503)
        await put(resources, *(SMS for _ in range(30)), MAIL)
        await work_off(resources, Channel.SMS)
        first = len(http.requests)
        assert first <= resources.settings.messages.concurrency
        for _ in range(5):
            await hurry(resources)
            await work_off(resources, Channel.SMS)
        assert len(http.requests) == first + 5
        await work_off(resources, Channel.EMAIL)
        assert len(mail.mails) == 1
        http.always = None
        await hurry(resources)
        await work_off(resources, Channel.SMS)
        found = await lane(resources, Channel.SMS)
        assert found
        assert (found.failures, found.error, found.down_since) == (0, None, None)
        assert len(http.taken) == 30
        assert {row.state for row in await rows(resources)} == {State.SENT}

    async def test_the_pause(self, live: Live, http: StandInHttp) -> None:
        """While it lasts nobody asks; it is as long as the provider wishes."""
        resources = live()
        http.always = Fault("status", 429, retry_after="120")
        await put(resources, SMS, SMS)
        await work_off(resources, Channel.SMS)
        asked = len(http.requests)
        await work_off(resources, Channel.SMS)
        await look(resources)
        assert len(http.requests) == asked
        found = await lane(resources, Channel.SMS)
        assert found
        assert timedelta(seconds=100) < found.paused_until - datetime.now(UTC) <= timedelta(seconds=121)

    async def test_a_message_that_breaks_the_provider_holds_up_no_other(self, live: Live, http: StandInHttp) -> None:
        """The next one to try the channel is another one."""
        resources = live(MESSAGES_CONCURRENCY=1)
        http.faults = [Fault("status", 500)]
        await put(resources, SMS, SMS)
        await work_off(resources, Channel.SMS)
        async with resources.db.transaction() as session:
            await session.execute(update(Lane).values(paused_until=func.now()))
        await work_off(resources, Channel.SMS)
        assert [row.state for row in await rows(resources)] == [State.QUEUED, State.SENT]

    async def test_the_admin_is_told_once_and_once_more(self, live: Live, http: StandInHttp, mail: StandInMail) -> None:
        """By the other ways, of an outage that lasts and of its end; not of each message, nor of a hiccup."""
        patient = live(MESSAGES_ADMIN_EMAIL="ops@example.com", MESSAGES_TELL_AFTER_SECONDS="3600")
        resources = live(MESSAGES_ADMIN_EMAIL="ops@example.com", MESSAGES_TELL_AFTER_SECONDS="0")
        mail.always = Fault("status", 421)
        await put(resources, *(MAIL for _ in range(10)))
        await work_off(patient, Channel.EMAIL)
        assert len(await rows(resources)) == 10, "not yet"
        assert await health_of(patient) is None
        assert await health_of(resources) == "RuntimeError: email: SMTPDataError (SMTP 421)"
        for _ in range(3):
            await hurry(resources)
            await work_off(resources, Channel.EMAIL)
        await work_off(resources, Channel.SLACK)
        (note,) = http.taken
        assert "Messages by email do not go out" in note.json["text"]
        mail.always = None
        for _ in range(3):
            await hurry(resources)
            await work_off(resources, Channel.EMAIL)
        await work_off(resources, Channel.SLACK)
        assert await health_of(resources) is None
        assert len(http.taken) == 2
        assert "go out again" in http.taken[1].json["text"]
        http.always = Fault("status", 503)
        await put(resources, SMS)
        await work_off(resources, Channel.SMS)
        await work_off(resources, Channel.EMAIL)
        assert len(mail.mails) == 11
        assert "sms has been down since" in mail.mails[-1].get_payload()

    async def test_a_channel_that_is_not_set_up(self, live: Live) -> None:
        """Its messages wait for the settings, and the reason is noted."""
        resources = live(MESSAGES_SMTP_HOST="")
        await put(resources, MAIL)
        await work_off(resources, Channel.EMAIL)
        (row,) = await rows(resources)
        assert (row.state, row.error) == (State.QUEUED, "not set up: MESSAGES_SMTP_HOST missing")

    async def test_after_days_it_is_given_up(self, live: Live, http: StandInHttp) -> None:
        """And so is what was of use for a while only; both are erased."""
        resources = live()
        async with resources.db.transaction() as session:
            old = await send(session, SMS)
            await session.execute(
                update(MessageRow).where(MessageRow.id == old).values(created_at=func.now() - 3 * DAY)
            )
            await send(session, SMS, valid_for=timedelta(0))
            await send(session, SMS, valid_for=DAY)
        await work_off(resources, Channel.SMS)
        found = await rows(resources)
        assert [row.state for row in found] == [State.FAILED, State.FAILED, State.SENT]
        assert [row.sealed for row in found] == [None] * 3
        assert found[0].error == "too late"
        assert len(http.requests) == 1


class TestRuns:
    """Who works a lane off, and when."""

    async def test_one_at_a_time(self, live: Live, http: StandInHttp) -> None:
        """However many tasks ask for it, everything goes out once."""
        resources = live()
        await put(resources, *(SMS for _ in range(12)))
        await asyncio.gather(*(work_off(resources, Channel.SMS) for _ in range(4)))
        assert len(http.requests) == 12

    async def test_a_lane_is_left_in_time_for_others(
        self, live: Live, http: StandInHttp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run that has lasted asks for another one."""
        from app.core.messages import lanes

        monkeypatch.setattr(lanes, "RUN_SECONDS", 0.0)
        resources = live(MESSAGES_CONCURRENCY=1)
        await put(resources, SMS, SMS)
        await work_off(resources, Channel.SMS)
        assert len(http.requests) == 1
        async with resources.db.read() as session:
            names = list(await session.scalars(select(OutboxTask.name)))
        assert names == ["messages.sms"] * 2

    async def test_what_was_left_is_looked_for(self, resources: "Resources") -> None:
        """A run is asked for where messages are due, once; not for a lane at work or paused."""

        async def asked() -> list[str]:
            async with resources.db.read() as session:
                return list(await session.scalars(select(OutboxTask.name)))

        async with resources.db.transaction() as session:
            await send(session, SMS)
        async with resources.db.transaction() as session:
            await session.execute(delete(OutboxTask))
        await look(resources)
        await look(resources)
        assert await asked() == ["messages.sms"]

    async def test_a_fault_of_ours_costs_one_message_its_turn(self, live: Live) -> None:
        """A content that nobody can read any more, as after a change of the code, waits; the others go out."""
        resources = live()
        first, _ = await put(resources, SMS, SMS)
        async with resources.db.transaction() as session:
            unreadable = seal(resources.encryption, first, "{}")
            await session.execute(update(MessageRow).where(MessageRow.id == first).values(sealed=unreadable))
        await work_off(resources, Channel.SMS)
        found = await rows(resources)
        assert [(row.state, row.error) for row in found] == [(State.QUEUED, "ValidationError"), (State.SENT, None)]


class TestDevices:
    """Expo says at once, or later, that a device is gone."""

    async def test_at_once(self, live: Live, http: StandInHttp) -> None:
        """The next notification to it is not even sent, until it has registered again."""
        resources = live()
        http.gone = {PUSH.to}
        for _ in range(2):
            await put(resources, PUSH)
            await work_off(resources, Channel.PUSH)
        assert [row.state for row in await rows(resources)] == [State.FAILED] * 2
        assert len(http.requests) == 1
        http.gone = set()
        async with resources.db.transaction() as session:
            assert await devices_gone(session, [PUSH.to, "ExponentPushToken[other]"]) == {PUSH.to}
            await device_is_back(session, PUSH.to)
            assert await devices_gone(session, [PUSH.to]) == set()
        await put(resources, PUSH)
        await work_off(resources, Channel.PUSH)
        assert len(http.taken) == 1

    async def test_later(self, live: Live, http: StandInHttp) -> None:
        """By a receipt; one that is not there yet is asked for again, for a day."""
        resources = live()

        async def receipts_are_due() -> None:
            async with resources.db.transaction() as session:
                await session.execute(
                    update(MessageRow).where(MessageRow.receipt_due_at.is_not(None)).values(receipt_due_at=func.now())
                )

        await receipts(resources)
        assert http.requests == []
        other = Push(to="ExponentPushToken[other]", title="x")
        await put(resources, PUSH, other, Push(to="ExponentPushToken[third]", title="x"))
        await work_off(resources, Channel.PUSH)
        await receipts_are_due()
        http.faults = [Fault("status", 500)]
        await receipts(resources)
        by_token = {request.json["to"]: f"ticket-{number}" for number, request in enumerate(http.taken, 1)}
        gone = {"status": "error", "details": {"error": "DeviceNotRegistered"}}
        http.receipts = {by_token[PUSH.to]: gone, by_token[other.to]: {"status": "ok"}}
        await receipts(resources)
        found = await rows(resources)
        assert [row.state for row in found] == [State.FAILED, State.SENT, State.SENT]
        assert [row.receipt_due_at is None for row in found] == [True, True, False]
        assert [row.sealed is None for row in found] == [True, True, False]
        async with resources.db.transaction() as session:
            assert await devices_gone(session, [PUSH.to, other.to]) == {PUSH.to}
            await session.execute(update(MessageRow).values(settled_at=func.now() - 2 * DAY))
        await receipts_are_due()
        await receipts(resources)
        assert [row.sealed for row in await rows(resources)] == [None] * 3

    @pytest.mark.parametrize(
        ("error", "state"),
        [("MessageTooBig", State.FAILED), ("MessageRateExceeded", State.QUEUED), ("InvalidCredentials", State.QUEUED)],
    )
    async def test_other_faults_of_a_ticket(self, live: Live, http: StandInHttp, error: str, state: State) -> None:
        """Of the message, for now, of the whole app."""
        resources = live()
        ticket = {"status": "error", "details": {"error": error}}
        http.faults = [Fault("status", 200, body=json.dumps({"data": ticket}))]
        await put(resources, PUSH)
        await work_off(resources, Channel.PUSH)
        (row,) = await rows(resources)
        assert (row.state, row.error) == (state, error)
        found = await lane(resources, Channel.PUSH)
        assert found
        assert found.failures == (error == "InvalidCredentials")


def test_how_long_a_provider_asks_to_wait() -> None:
    """A number of seconds or a date; nothing of use is nothing, and no wait is longer than an hour."""
    assert retry_after("30") == 30
    assert retry_after("999999999999") == 3600
    assert retry_after("soon") == retry_after("") == retry_after("-5") == 0
    assert 50 < retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)) <= 60


async def test_what_scrapes_and_logs_say(
    live: Live, http: StandInHttp, client: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """How many wait and what is down, as of now; counts of what became of each attempt; nobody's address or text."""
    from tests.core.test_metrics import sample

    names = ('messages_total{channel="sms",outcome="sent"}', 'outside_api_requests_total{api="sms",outcome="ok"}')
    before = (await client.get("/metrics")).text
    resources = live()
    http.always = Fault("status", 503)
    await put(resources, SMS, SMS)
    await work_off(resources, Channel.SMS)
    during = (await client.get("/metrics")).text
    assert sample(during, 'messages_waiting{channel="sms"}') == 2
    assert sample(during, 'message_channel_down{channel="sms"}') == 1
    assert sample(during, 'message_channel_down{channel="email"}') == 0
    http.always = None
    await hurry(resources)
    await work_off(resources, Channel.SMS)
    after = (await client.get("/metrics")).text
    assert sample(after, 'messages_waiting{channel="sms"}') == 0
    assert [sample(after, name) - sample(before, name) for name in names] == [2, 2]
    written = "".join(capfd.readouterr())
    assert "123456" not in written
    assert SMS.to not in written
    assert "/services/" not in written

"""The providers: how a message is handed over, and what their answers mean.

A sender returns what the provider calls the message. Otherwise it says what is wrong, because that decides what follows:
this message (`Refused`, `Deferred`) or the whole channel (`ChannelDown`). Wrong credentials are the channel's fault: no
message is lost to a token that somebody has to renew.
"""

import html
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime, parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

import orjson

from app.core import metrics
from app.core.messages.kinds import Channel, Email, Push, SlackNote, Sms
from app.core.project import project
from app.core.settings import Messages as MessagesSettings

if TYPE_CHECKING:
    import aiosmtplib
    import httpx

# Saying goodbye to a mail server that has taken the message may not take longer.
GOODBYE_SECONDS = 2.0
LONGEST_RETRY_AFTER_SECONDS = 3600.0
# An answer is a few hundred bytes, and one for a thousand receipts not much more than that.
MAX_ANSWER_BYTES = 1_000_000


class Refused(Exception):
    """The provider will never take this message."""


class DeviceNotRegistered(Refused):
    """The device of a notification is gone; do not send to it again."""


class Deferred(Exception):
    """Not this message, now.

    Attributes:
        after: seconds that the provider asks to wait, if it does.
    """

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class ChannelDown(Deferred):
    """No message at all, now: the provider is away, overloaded, or does not know us."""


class Sender(Protocol):
    """Hands messages of one channel to its provider. The caller sets the deadline."""

    async def send(self, message: Any, identity: UUID) -> str:
        """Hand a message over and return what the provider calls it.

        Args:
            message: of the sender's own kind.
            identity: the same at each attempt, so that a provider or a receiver can recognise a repetition.

        Raises:
            Refused, Deferred, ChannelDown: it was not taken, or nobody knows.
        """

    async def close(self) -> None:
        """Close the connections."""


def create_sender(settings: MessagesSettings, channel: Channel) -> Sender:
    """The sender of a channel, or one that says what is not set up; opens nothing."""
    kinds: dict[Channel, tuple[type[Sender], tuple[str, ...]]] = {
        Channel.EMAIL: (SmtpSender, ("smtp_host", "from_address")),
        Channel.SMS: (SmsSender, ("sms_account", "sms_token", "sms_from")),
        Channel.PUSH: (PushSender, ("push_base_url",)),
        Channel.SLACK: (SlackSender, ("slack_webhook_url",)),
    }
    kind, needed = kinds[channel]
    # str() of an empty secret is empty, of any other one asterisks.
    if missing := [f"MESSAGES_{name.upper()}" for name in needed if not str(getattr(settings, name))]:
        return NotSetUp(missing)
    return kind(settings)  # type: ignore[call-arg]  # each of them takes the settings


class NotSetUp:
    """A channel that lacks settings: its messages wait until they are there."""

    def __init__(self, missing: list[str]) -> None:
        self._missing = missing

    async def send(self, message: Any, identity: UUID) -> str:  # noqa: ARG002  # the protocol's
        """See `Sender`; always raises."""
        raise ChannelDown(f"not set up: {', '.join(self._missing)} missing")

    async def close(self) -> None:
        """Nothing is held."""


# E-mail


class SmtpSender:
    """E-mail by SMTP, a connection for each message: one kept open is cut by most servers, which looks like a failure.

    Repetition: the Message-ID stays the same, by which most mailboxes show a message once.
    """

    def __init__(self, settings: MessagesSettings) -> None:
        self._settings = settings

    async def send(self, message: Email, identity: UUID) -> str:
        """See `Sender`."""
        import aiosmtplib

        mail = compose(self._settings, message, identity)
        connection = self._connection()
        try:
            try:
                await connection.connect()
            except (aiosmtplib.SMTPException, OSError) as error:
                raise ChannelDown(_smtp_reason(error)) from error
            try:
                await connection.send_message(mail, sender=self._settings.from_address, recipients=[message.to])
            except aiosmtplib.SMTPRecipientsRefused as error:
                raise _smtp_fault(error.recipients[0]) from error
            except (aiosmtplib.SMTPSenderRefused, OSError) as error:
                # The sender is the same for every message. A connection that ends here may end after the message was
                # taken: it is sent again.
                raise ChannelDown(_smtp_reason(error)) from error
            except aiosmtplib.SMTPNotSupported as error:  # an address that needs SMTPUTF8
                raise Refused(_smtp_reason(error)) from error
            except aiosmtplib.SMTPResponseException as error:
                raise _smtp_fault(error) from error
            with suppress(aiosmtplib.SMTPException, OSError):
                await connection.quit(timeout=GOODBYE_SECONDS)
        except Refused:
            metrics.OUTSIDE_REQUESTS.labels("smtp", "refused").inc()
            raise
        except BaseException:  # the deadline as well
            metrics.OUTSIDE_REQUESTS.labels("smtp", "failed").inc()
            raise
        finally:
            connection.close()
        metrics.OUTSIDE_REQUESTS.labels("smtp", "ok").inc()
        return str(mail["Message-ID"])

    async def close(self) -> None:
        """Nothing is held between two messages."""

    def _connection(self) -> "aiosmtplib.SMTP":
        import aiosmtplib

        settings = self._settings
        return aiosmtplib.SMTP(
            hostname=settings.smtp_host,
            port=settings.smtp_port,
            username=settings.smtp_user or None,
            password=settings.smtp_password.get_secret_value() or None,
            use_tls=settings.smtp_tls == "tls",
            start_tls=settings.smtp_tls == "starttls",
            cert_bundle=settings.smtp_ca_file or None,
            timeout=settings.timeout_seconds,
            # The host's own name by default, which means a look-up that blocks the event loop.
            local_hostname=settings.from_address.rpartition("@")[2],
        )


def compose(settings: MessagesSettings, message: Email, identity: UUID) -> EmailMessage:
    """The message as it goes over the wire. The library refuses line breaks in headers as well."""
    domain = settings.from_address.rpartition("@")[2]
    mail = EmailMessage(policy=SMTP_POLICY)
    mail["From"] = Address(settings.from_name or project().title, addr_spec=settings.from_address)
    mail["To"] = Address(message.name, addr_spec=message.to)
    mail["Subject"] = message.subject
    mail["Date"] = format_datetime(datetime.now(UTC))
    mail["Message-ID"] = f"<{identity}@{domain}>"
    # Keeps out-of-office replies from answering a machine (RFC 3834).
    mail["Auto-Submitted"] = "auto-generated"
    if message.reply_to:
        mail["Reply-To"] = Address(addr_spec=message.reply_to)
    mail.set_content(message.text)
    if message.html is not None:
        mail.add_alternative(message.html, subtype="html")
    return mail


def _smtp_fault(error: "aiosmtplib.SMTPResponseException") -> Exception:
    """What a refusal of one message means: 5yz for ever, 4yz for now, 421 for everybody (RFC 5321)."""
    if error.code == 421:
        return ChannelDown(_smtp_reason(error))
    return (Refused if error.code >= 500 else Deferred)(_smtp_reason(error))


def _smtp_reason(error: Exception) -> str:
    """Kind and code. Never the text, which quotes the address and, from some servers, what was sent."""
    code = getattr(error, "code", None)
    return type(error).__name__ + (f" (SMTP {code})" if code else "")


# Providers by HTTP


class _HttpSender:
    """What the three providers have in common."""

    api: str

    def __init__(self, settings: MessagesSettings) -> None:
        self.settings = settings
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Close the connections, if any were opened."""
        if self._client is not None:
            await self._client.aclose()

    async def post(self, url: str, identity: UUID | None = None, **what: Any) -> "Answer":
        """POST, and count how it went.

        Returns:
            A success, or a refusal of this very request (4xx).

        Raises:
            ChannelDown: anything else.
        """
        import httpx

        if self._client is None:
            # No redirects: what we send is for that address alone. No proxies from the environment either.
            self._client = httpx.AsyncClient(
                timeout=self.settings.timeout_seconds, trust_env=False, verify=_authorities()
            )
        headers = {**what.pop("headers", {}), **({"Idempotency-Key": str(identity)} if identity else {})}
        outcome = "failed"
        try:
            async with self._client.stream("POST", url, headers=headers, **what) as response:
                body = b""
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        raise ChannelDown("the answer has no end")
            answer = Answer(response.status_code, body)
            _raise_if_down(answer, response.headers.get("Retry-After", ""))
            outcome = "ok" if answer.ok else "refused"
        except (httpx.HTTPError, httpx.InvalidURL) as error:  # its text may quote the address, which is a secret here
            raise ChannelDown(type(error).__name__) from None
        finally:
            metrics.OUTSIDE_REQUESTS.labels(self.api, outcome).inc()
        return answer


@cache
def _authorities() -> ssl.SSLContext:
    # Reading them takes 40 ms of CPU, and a lane opens a client for each of its runs.
    import httpx

    return httpx.create_ssl_context(trust_env=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider said."""

    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        """A success."""
        return 200 <= self.status < 300

    @property
    def fields(self) -> dict[str, Any]:
        """The body as an object of JSON; an empty one where it is none."""
        try:
            found = orjson.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def _raise_if_down(answer: Answer, wait: str) -> None:
    if answer.status in (401, 403):
        raise ChannelDown(f"does not know us (HTTP {answer.status})")
    if answer.status in (408, 425, 429) or answer.status >= 500:
        raise ChannelDown(f"HTTP {answer.status}", retry_after(wait))
    if not answer.ok and not 400 <= answer.status < 500:
        raise ChannelDown(f"not an answer (HTTP {answer.status})")


def retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for: a number, or a date. 0 when it says nothing of use."""
    seconds = 0.0
    if value.strip().isdigit():
        seconds = float(value.strip()[:9])
    else:
        with suppress(ValueError, TypeError):
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_SECONDS)


class SmsSender(_HttpSender):
    """SMS by Twilio's protocol. Repetition: an Idempotency-Key, which Twilio itself ignores and others honour."""

    api = "sms"

    async def send(self, message: Sms, identity: UUID) -> str:
        """See `Sender`."""
        settings = self.settings
        # A messaging service chooses the number itself.
        sender = "MessagingServiceSid" if settings.sms_from.startswith("MG") else "From"
        answer = await self.post(
            f"{settings.sms_base_url}/2010-04-01/Accounts/{settings.sms_account}/Messages.json",
            identity,
            auth=(settings.sms_account, settings.sms_token.get_secret_value()),
            data={"To": message.to, sender: settings.sms_from, "Body": message.text},
        )
        if not answer.ok:  # its text quotes the number
            raise Refused(f"HTTP {answer.status}, code {answer.fields.get('code', 'unknown')}")
        return str(answer.fields.get("sid", ""))


class PushSender(_HttpSender):
    """Push by Expo. It has no idempotency key: a repetition may show twice."""

    api = "push"

    async def send(self, message: Push, identity: UUID) -> str:
        """See `Sender`; returns Expo's ticket."""
        content = {"to": message.to, "title": message.title, "body": message.body, "data": message.data}
        answer = await self.post(f"{self.settings.push_base_url}/send", identity, headers=self._headers(), json=content)
        ticket = answer.fields.get("data")
        if not answer.ok or not isinstance(ticket, dict):
            raise Refused(f"HTTP {answer.status}")
        if ticket.get("status") == "ok":
            return str(ticket.get("id", ""))
        raise push_fault(ticket)

    async def receipts(self, tickets: list[str]) -> dict[str, Any]:
        """What became of notifications, by ticket; those that Expo does not know yet, or no longer, are missing.

        Raises:
            ChannelDown: Expo is away.
        """
        url = f"{self.settings.push_base_url}/getReceipts"
        found = (await self.post(url, headers=self._headers(), json={"ids": tickets})).fields.get("data")
        return found if isinstance(found, dict) else {}

    def _headers(self) -> dict[str, str]:
        token = self.settings.push_token.get_secret_value()
        return {"Authorization": f"Bearer {token}"} if token else {}


def push_fault(ticket: dict[str, Any]) -> Exception:
    """What an error in a ticket or receipt of Expo means."""
    details = ticket.get("details")
    error = str(details.get("error", "unknown") if isinstance(details, dict) else "unknown")
    match error:
        case "DeviceNotRegistered":
            return DeviceNotRegistered(error)
        case "InvalidCredentials" | "MismatchSenderId" | "DeveloperError":  # of the app, so for every device
            return ChannelDown(error)
        case "MessageRateExceeded" | "ExpoError" | "ProviderError":
            return Deferred(error)
    return Refused(error)


class SlackSender(_HttpSender):
    """An incoming webhook of Slack. It has no idempotency key: a repetition may show twice."""

    api = "slack"

    async def send(self, message: SlackNote, identity: UUID) -> str:
        """See `Sender`; Slack gives no name."""
        # Slack's own rule: these three characters, or a text could mention everybody and hide a link behind words.
        text = html.escape(message.text, quote=False)
        url = self.settings.slack_webhook_url.get_secret_value()
        answer = await self.post(url, identity, json={"text": text})
        if answer.status in (404, 410):  # the webhook or its channel is gone, for every note
            raise ChannelDown(f"the webhook is gone (HTTP {answer.status})")
        if not answer.ok:
            raise Refused(f"HTTP {answer.status}")
        return ""

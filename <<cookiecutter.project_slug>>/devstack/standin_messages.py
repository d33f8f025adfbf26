"""Stand-ins for the providers of messages: a mail server, and Twilio, Expo and Slack by HTTP. They fail as they are told.

    python -m devstack.standin_messages
    MESSAGES_MODE=live MESSAGES_SMTP_HOST=127.0.0.1 MESSAGES_SMTP_PORT=1025 MESSAGES_SMTP_TLS=none … make dev

prints what `make dev` would have sent. Tests use the same servers within their own process: they speak the protocols for
real, sign-in and TLS among them, and keep what they took.
"""

import argparse
import asyncio
import base64
import contextlib
import email
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import Message
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

from devstack.ports import LOOPBACK


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request.

    Attributes:
        kind: `status` answers with `status`; `drop` takes the message and cuts the connection instead of answering;
            `hang` never answers; `taken_hang` takes the message first; `endless` answers without end.
        status: of HTTP, or the code of SMTP.
        retry_after: a header of HTTP.
        body: of the answer.
    """

    kind: str
    status: int = 500
    retry_after: str = ""
    body: str = "{}"


@dataclass
class StandInMail:
    """A mail server. `async with mail.serving():`

    Attributes:
        faults: what goes wrong, one for each message; afterwards all is well.
        always: what goes wrong with every message, when there is no fault of its own.
        mails: what was taken.
        attempts: messages that were offered.
        user: who may send, with `password`; empty lets everybody.
        certificate: offers STARTTLS, and insists on it.
        port: where it listens; 0 takes a free one.
    """

    faults: list[Fault] = field(default_factory=list)
    always: Fault | None = None
    mails: list[Message] = field(default_factory=list)
    attempts: int = 0
    user: str = ""
    password: str = ""
    certificate: ssl.SSLContext | None = None
    port: int = 0
    told: Callable[[Message], None] | None = None

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["StandInMail"]:
        """Serve for the length of the block."""
        from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

        def known(_server: Any, _session: Any, _envelope: Any, _mechanism: str, given: Any) -> AuthResult:
            right = LoginPassword(self.user.encode(), self.password.encode())
            # Not handled: the library answers the client itself.
            return AuthResult(success=given == right, handled=False)

        connections: list[SMTP] = []

        def protocol() -> SMTP:
            connections.append(
                SMTP(
                    self,
                    hostname="standin",
                    enable_SMTPUTF8=True,
                    auth_required=bool(self.user),
                    authenticator=known if self.user else None,
                    auth_require_tls=self.certificate is not None,
                    tls_context=self.certificate,
                    require_starttls=self.certificate is not None,
                )
            )
            return connections[-1]

        server = await asyncio.get_running_loop().create_server(protocol, LOOPBACK, self.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for connection in connections:
                if connection.transport:
                    connection.transport.close()
            handlers = [connection._handler_coroutine for connection in connections]
            await asyncio.gather(*(handler for handler in handlers if handler), return_exceptions=True)

    async def handle_DATA(self, server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802  # the library's name
        """A message has come."""
        self.attempts += 1
        fault = self.faults.pop(0) if self.faults else self.always
        if fault and fault.kind == "hang":
            await asyncio.Event().wait()
        if fault and fault.kind == "status":
            return f"{fault.status} no: {envelope.rcpt_tos[0]}"
        mail = email.message_from_bytes(envelope.content)
        self.mails.append(mail)
        if self.told:
            self.told(mail)
        if fault and fault.kind == "taken_hang":
            await asyncio.Event().wait()
        if fault and fault.kind == "drop":
            server.transport.abort()
        return "250 taken"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came in."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        """The body of a form."""
        return {name: values[0] for name, values in parse_qs(self.body.decode()).items()}

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class StandInHttp:
    """Twilio, Expo and Slack. `async with http.serving():`

    Attributes:
        faults: what goes wrong, one for each request; afterwards all is well.
        always: what goes wrong with every request, when there is no fault of its own.
        requests: what came in.
        taken: what had an effect: a repeated Idempotency-Key has none, and is answered as before.
        gone: tokens of devices that are no longer registered, as the ticket says at once.
        receipts: what becomes of a notification, by ticket.
        account: of Twilio, with `token`.
        port: where it listens; 0 takes a free one.
    """

    faults: list[Fault] = field(default_factory=list)
    always: Fault | None = None
    requests: list[Request] = field(default_factory=list)
    taken: list[Request] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    receipts: dict[str, dict[str, Any]] = field(default_factory=dict)
    account: str = "AC0"
    token: str = "twilio"  # noqa: S105  # of a stand-in
    port: int = 0
    told: Callable[[Request], None] | None = None
    _answers: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{LOOPBACK}:{self.port}"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["StandInHttp"]:
        """Serve for the length of the block."""
        busy: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task
            busy.add(task)
            try:
                await self._connection(reader, writer)
            except (asyncio.CancelledError, asyncio.IncompleteReadError, OSError):
                pass  # told to stop, or the client is gone
            finally:
                writer.transport.abort()
                busy.discard(task)

        server = await asyncio.start_server(accept, LOOPBACK, self.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(head[0].split()[1], headers, body)
        self.requests.append(request)
        fault = self.faults.pop(0) if self.faults else self.always
        if fault and fault.kind == "hang":
            await asyncio.Event().wait()
        if fault and fault.kind == "endless":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                writer.write(b" " * 65536)
                await writer.drain()
        if fault and fault.kind == "status":
            status, answer = fault.status, fault.body
        else:
            status, answer = self._answer(request)
        if fault and fault.kind == "taken_hang":
            await asyncio.Event().wait()
        if fault and fault.kind == "drop":
            return
        extra = f"Retry-After: {fault.retry_after}\r\n" if fault and fault.retry_after else ""
        writer.write(
            f"HTTP/1.1 {status} -\r\nContent-Length: {len(answer.encode())}\r\nConnection: close\r\n{extra}\r\n{answer}".encode()
        )
        await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def _answer(self, request: Request) -> tuple[int, str]:
        key = request.headers.get("idempotency-key", "")
        if key not in self._answers:
            answer = self._effect(request)
            if not key:
                return answer
            self._answers[key] = answer
        return self._answers[key]

    def _effect(self, request: Request) -> tuple[int, str]:
        basic = base64.b64encode(f"{self.account}:{self.token}".encode()).decode()
        if request.path == f"/2010-04-01/Accounts/{self.account}/Messages.json":
            if request.headers.get("authorization") != f"Basic {basic}":
                return 401, '{"code": 20003}'
            self._take(request)
            return 201, json.dumps({"sid": f"SM{uuid4().hex}", "status": "queued"})
        if request.path == "/push/send":
            if request.json["to"] in self.gone:
                error = {"status": "error", "message": "…", "details": {"error": "DeviceNotRegistered"}}
                return 200, json.dumps({"data": error})
            self._take(request)
            return 200, json.dumps({"data": {"status": "ok", "id": f"ticket-{len(self.taken)}"}})
        if request.path == "/push/getReceipts":
            wanted = request.json["ids"]
            return 200, json.dumps({"data": {one: self.receipts[one] for one in wanted if one in self.receipts}})
        if request.path == "/services/T0/B0/secret":
            self._take(request)
            return 200, "ok"
        return 404, "no_service"

    def _take(self, request: Request) -> None:
        self.taken.append(request)
        if self.told:
            self.told(request)


def own_certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A fresh certificate for this machine: what a server offers, and the file of the authority that a client trusts."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "standin")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority, secret = folder / "standin.crt", folder / "standin.key"
    authority.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority, secret)
    return context, authority


async def serve(smtp_port: int, http_port: int) -> None:
    """Print what comes in until interrupted."""
    mail = StandInMail(port=smtp_port, told=lambda message: print(message.as_string(), flush=True))
    http = StandInHttp(port=http_port, told=lambda request: print(request.path, request.body.decode(), flush=True))
    async with mail.serving(), http.serving():
        print(f"mail on {LOOPBACK}:{mail.port}, Twilio, Expo (/push) and Slack (/services/T0/B0/secret) on {http.url}")
        await asyncio.Event().wait()


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smtp-port", type=int, default=1025)
    parser.add_argument("--http-port", type=int, default=1080)
    given = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(given.smtp_port, given.http_port))


if __name__ == "__main__":
    main()

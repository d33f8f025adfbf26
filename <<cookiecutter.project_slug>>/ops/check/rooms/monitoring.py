"""promtool and amtool, which no Python package brings."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from ops.check.tools import Check, Findings, Unavailable, find, findings, run

#: Debian's packages of the tools.
PACKAGES = {"promtool": "prometheus", "amtool": "prometheus-alertmanager"}


def tool(root: Path, name: str) -> str:
    """The tool from PATH; else, on a Debian-like machine, out of its package, without installing that.

    Raises:
        Unavailable: neither works.
    """
    if found := find(name):
        return found
    kept = root / ".devstack/tools" / name
    if not kept.exists():
        advice = f"{name} is not here: apt-get install {PACKAGES[name]}, or go on without it: SKIP={name}"
        if not (find("apt-get") and find("dpkg-deb")):
            raise Unavailable(advice)
        with tempfile.TemporaryDirectory(prefix="tools-") as scratch:
            folder = Path(scratch)
            folder.chmod(0o755)  # apt downloads as a user of its own
            fetched = subprocess.run(
                ["apt-get", "download", "-qq", PACKAGES[name]], cwd=folder, capture_output=True, check=False
            )
            package = next(folder.glob("*.deb"), None)
            if fetched.returncode or package is None:
                raise Unavailable(advice)
            subprocess.run(["dpkg-deb", "--extract", package, folder / "tree"], check=True)
            kept.parent.mkdir(parents=True, exist_ok=True)
            fresh = kept.with_name(f"{name}.new")
            fresh.write_bytes((folder / "tree/usr/bin" / name).read_bytes())
            fresh.chmod(0o755)
            fresh.replace(kept)
    return str(kept)


def checking(name: str, *arguments: str) -> Callable[[Path], Findings]:
    """A check by one of the tools."""

    def check(root: Path) -> Findings:
        return findings(run(root, [tool(root, name), *arguments]))

    return check


CHECKS = (
    Check("promtool", checking("promtool", "check", "config", "ops/prometheus/prometheus.yml"), "ops/prometheus"),
    Check("amtool", checking("amtool", "check-config", "ops/alertmanager/alertmanager.yml"), "ops/alertmanager"),
)

"""Tools that no Python package brings: from PATH, or out of Debian's packages without installing them."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from ops.check.tools import Foreign, find


def tool(root: Path, name: str, package: str) -> str:
    """The tool from PATH; else, on a Debian-like machine, out of Debian's package of it, without installing that.

    Raises:
        Foreign: neither works.
    """
    if found := find(name):
        return found
    kept = root / ".devstack/tools" / name
    if not kept.exists():
        advice = f"{name} is not here: apt-get install {package}, or go on without it: SKIP={name}"
        if not (find("apt-get") and find("dpkg-deb")):
            raise Foreign(advice)
        with tempfile.TemporaryDirectory(prefix="tools-") as scratch:
            folder = Path(scratch)
            archive = download(package, folder)
            if archive is None:
                raise Foreign(advice)
            subprocess.run(["dpkg-deb", "--extract", archive, folder / "tree"], check=True)
            kept.parent.mkdir(parents=True, exist_ok=True)
            fresh = kept.with_name(f"{name}.new")
            fresh.write_bytes((folder / "tree/usr/bin" / name).read_bytes())
            fresh.chmod(0o755)
            fresh.replace(kept)
    return str(kept)


def download(package: str, folder: Path) -> Path | None:
    """The package's file by apt, as any user: where the machine has no lists of packages, they are fetched into `folder`."""
    folder.chmod(0o755)  # apt downloads as a user of its own
    (folder / "lists/partial").mkdir(parents=True)
    (folder / "cache/archives/partial").mkdir(parents=True)
    own = [
        "-o",
        f"Dir::State::lists={folder}/lists",
        "-o",
        f"Dir::Cache={folder}/cache",
        "-o",
        "APT::Sandbox::User=root",
    ]
    for options in ([], own):
        if options:
            subprocess.run(["apt-get", "-qq", *options, "update"], cwd=folder, capture_output=True, check=False)
        subprocess.run(["apt-get", "-qq", *options, "download", package], cwd=folder, capture_output=True, check=False)
        if found := next(folder.glob("*.deb"), None):
            return found
    return None

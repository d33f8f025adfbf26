"""The programs of monitoring, for tests: from PATH, or out of Debian's packages."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from ops.check.foreign import download, tool
from ops.check.rooms.monitoring import PACKAGES
from ops.check.tools import Foreign, find
from tests.ops.promql import ROOT

# Where Debian's Alertmanager looks for its templates when it starts.
TEMPLATES = Path("/usr/share/prometheus/alertmanager")


def program(name: str) -> str:
    """Its path; or no test, but where CI is set nobody would notice that.

    Args:
        name: as Debian calls it.
    """
    try:
        return tool(ROOT, name, PACKAGES[name])
    except Foreign as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


def alertmanager(folder: Path) -> str:
    """Alertmanager, to be run in `folder`.

    Debian's build has the path of its templates compiled in. Where its package is unpacked and not installed, they are put into
    `folder`, and a copy of the program is made that looks there.
    """
    if upstream := find("alertmanager"):
        return upstream
    debian = program("prometheus-alertmanager")
    if (TEMPLATES / "default.tmpl").exists():
        return debian
    kept = ROOT / ".devstack/tools/alertmanager-templates"
    if not kept.exists():
        with tempfile.TemporaryDirectory(prefix="tools-") as scratch:
            archive = download(PACKAGES["prometheus-alertmanager"], Path(scratch))
            assert archive, "the program came out of this package a moment ago"
            subprocess.run(["dpkg-deb", "--extract", archive, Path(scratch, "tree")], check=True)
            fresh = kept.with_name(f"{kept.name}.{os.getpid()}")
            fresh.mkdir()
            for source in Path(scratch, "tree", *TEMPLATES.parts[1:]).glob("*.tmpl"):
                (fresh / source.name).write_bytes(source.read_bytes())
            fresh.rename(kept)
    (folder / "templates").symlink_to(kept)
    there = str(TEMPLATES).encode()
    here = b"/proc/self/cwd".ljust(len(there) - len("templates"), b"/") + b"templates"
    copy = folder / "alertmanager"
    copy.write_bytes(Path(debian).read_bytes().replace(there, here))
    copy.chmod(0o755)
    return str(copy)

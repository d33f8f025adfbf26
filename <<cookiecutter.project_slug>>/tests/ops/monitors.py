"""The programs of monitoring, for tests: from PATH, or out of Debian's packages."""

import os

import pytest

from ops.check.foreign import tool
from ops.check.rooms.monitoring import PACKAGES
from ops.check.tools import Foreign
from tests.ops.promql import ROOT


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

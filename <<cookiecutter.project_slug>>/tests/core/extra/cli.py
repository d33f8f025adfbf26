"""The service's command line with one feature more, `probe`, which only these tests have: `python cli.py worker`.

A feature is a folder and a name in one list, so this is all that it takes.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))

import app.features  # noqa: E402  # not before the project's root is on the path

app.features.__path__.append(str(HERE / "features"))
app.features.FEATURES = (*app.features.FEATURES, "probe")  # type: ignore[assignment]  # a tuple of one length more

if __name__ == "__main__":
    from app.cli import cli

    cli()

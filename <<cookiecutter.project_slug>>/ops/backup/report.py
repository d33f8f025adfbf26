"""What a run leaves behind for those who watch: metrics for Prometheus' textfile collector."""

import re
import time
from dataclasses import dataclass
from pathlib import Path

HELP = {
    "backup_last_run_timestamp_seconds": "When a backup was last tried.",
    "backup_last_run_success": "Whether that made one: 1 or 0.",
    "backup_last_run_duration_seconds": "How long it took.",
    "backup_last_success_timestamp_seconds": "When a backup was last made.",
    "backup_last_success_size_bytes": "Size of the newest dump.",
    "backup_kept": "Good backups in the store.",
}
# What a failed run cannot know and must not forget.
OF_SUCCESS = ("backup_last_success_timestamp_seconds", "backup_last_success_size_bytes", "backup_kept")


@dataclass(frozen=True)
class Success:
    """What a good run has to tell."""

    size: int
    kept: int | None


def write_metrics(file: Path, seconds: float, success: Success | None) -> None:
    """Replace the file in one step; after a failure the figures of the last success stay."""
    now = time.time()
    values = {
        "backup_last_run_timestamp_seconds": now,
        "backup_last_run_success": 1.0 if success else 0.0,
        "backup_last_run_duration_seconds": seconds,
    }
    values |= _before(file)
    if success:
        values |= {"backup_last_success_timestamp_seconds": now, "backup_last_success_size_bytes": float(success.size)}
        if success.kept is not None:
            values["backup_kept"] = float(success.kept)
    lines = [
        f"# HELP {name} {HELP[name]}\n# TYPE {name} gauge\n{name} {values[name]:.3f}\n"
        for name in HELP
        if name in values
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.new")
    unfinished.write_text("".join(lines))
    unfinished.chmod(0o644)  # the collector is another user
    unfinished.replace(file)


def _before(file: Path) -> dict[str, float]:
    try:
        text = file.read_text()
    except OSError:
        return {}
    found = re.findall(r"^(\w+) ([\d.]+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found if name in OF_SUCCESS}

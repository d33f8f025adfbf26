"""How long to wait before another attempt."""

import random


def jittered(seconds: float) -> float:
    """Between half of it and all of it: what failed together does not come back together."""
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311  # not for secrets


def backoff(first: float, failures: int, longest: float) -> float:
    """Seconds after so many failures in a row, with jitter: `first` after one, twice that with each more, up to `longest`."""
    return jittered(min(first * 2 ** min(failures - 1, 20), longest))

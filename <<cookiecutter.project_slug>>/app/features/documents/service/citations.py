"""The numbers in an answer, held against the sources that there are."""

import re

# The tail of a piece that may become a citation with the next one, and the space before it: [, [1, [1, 2
_UNFINISHED = re.compile(r"\s?(?:\[[\d,\s]{0,20})?$")
_CITATION = re.compile(r"\s?\[(\d{1,4}(?:\s*,\s*\d{1,4})*)\]")


class Citations:
    """Passes an answer on piece by piece, without the citations of sources that do not exist.

    Args:
        sources: how many there are; their numbers begin with 1.

    Attributes:
        named: numbers of those that the answer names, in the order of their first mention.
        invented: how many citations were dropped.
    """

    def __init__(self, sources: int) -> None:
        self._sources = sources
        self._held = ""
        self.named: list[int] = []
        self.invented = 0

    def feed(self, piece: str) -> str:
        """What can be passed on by now; what may be the beginning of a citation is held back."""
        text = self._held + piece
        unfinished = _UNFINISHED.search(text)
        assert unfinished  # the end of the text is enough
        cut = unfinished.start()
        self._held = text[cut:]
        return _CITATION.sub(self._checked, text[:cut])

    def rest(self) -> str:
        """What was held back, at the end."""
        rest, self._held = self._held, ""
        return rest

    def _checked(self, match: re.Match[str]) -> str:
        numbers = [int(number) for number in match[1].split(",")]
        known = [number for number in numbers if 1 <= number <= self._sources]
        self.invented += len(numbers) - len(known)
        self.named += [number for number in dict.fromkeys(known) if number not in self.named]
        if len(known) == len(numbers):
            return match[0]
        space = " " if match[0][0].isspace() else ""
        return f"{space}[{', '.join(map(str, known))}]" if known else ""

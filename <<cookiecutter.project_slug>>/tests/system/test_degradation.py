"""What is written about failing neighbours is what the service is held to."""

from tests.system.faults import DOCUMENT, document


def test_the_document_says_the_same() -> None:
    """`docs/degradation.md` has every promise of `operations/`; `make generate` writes it."""
    assert DOCUMENT.read_text() == document(), "run: make generate"

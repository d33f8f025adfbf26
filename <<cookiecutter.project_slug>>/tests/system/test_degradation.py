"""What is written about failing neighbours is what the service is held to."""

from tests.system.faults import DOCUMENT, document


def test_the_document_says_the_same() -> None:
    """The table in `docs/architecture.md` has every promise of `operations/`; `make generate` writes it."""
    written = DOCUMENT.read_text()
    assert written == document(written), "run: make generate"
    assert document(written.replace("| **503 ", "| **200 ")) == written, "a cell that was changed by hand would be seen"

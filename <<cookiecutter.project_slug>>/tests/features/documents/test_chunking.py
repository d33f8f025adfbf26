"""Passages cover the text, keep within their length, and know where they come from."""

import random
from itertools import pairwise

import pytest

from app.features.documents.chunking import Passage, passages, spans
from app.features.documents.extraction import Section

ALPHABET = ["word", "a", "Sentence.", "\n", "\n\n", "x" * 300, "日本語。", "\u00e9t\u00e9!", "", "verylongword" * 3]


def random_text(seed: int) -> str:
    """A text of words, lines, paragraphs and monsters."""
    dice = random.Random(seed)
    return " ".join(dice.choices(ALPHABET, k=dice.randrange(1, 400)))


@pytest.mark.parametrize("seed", range(60))
def test_spans_cover_the_text_without_gap_and_always_advance(seed: int) -> None:
    """Nothing is lost: each span begins at or before the end of the one before, and the last ends with the text."""
    text = random_text(seed)
    characters, overlap = random.Random(seed).choice([(200, 50), (1000, 150), (300, 0), (250, 125)])
    found = list(spans(text, characters, overlap))
    assert found[0][0] == 0
    assert found[-1][1] == len(text)
    for (start, end), (next_start, next_end) in pairwise(found):
        assert start < next_start <= end < next_end
        assert end - next_start <= overlap
    assert all(0 < end - start <= characters for start, end in found)


@pytest.mark.parametrize("seed", range(20))
def test_every_word_stands_whole_in_some_passage(seed: int) -> None:
    """Only a word longer than half a passage is ever broken."""
    text = random_text(seed)
    found = " ".join(p.text for p in passages([Section(text)], characters=1000, overlap=150))
    assert set(text.split()) <= set(found.split())


def test_a_sentence_at_a_cut_stands_whole_in_one_passage() -> None:
    """Cuts come at the end of sentences, and paragraphs are preferred to sentences."""
    text = " ".join(f"This is sentence number {number}." for number in range(200))
    for passage in passages([Section(text)], characters=500, overlap=100):
        assert passage.text.endswith(".")
    text = "\n\n".join("Short paragraph. With two sentences here." for _ in range(100))
    assert all(p.text.endswith("here.") for p in passages([Section(text)], characters=500, overlap=0))


def test_passages_overlap_within_a_section() -> None:
    """The end of one passage is the beginning of the next."""
    text = " ".join(str(number) for number in range(1000))
    found = list(passages([Section(text)], characters=400, overlap=100))
    for before, after in pairwise(found):
        first = after.text.split()[0]
        assert first in before.text.split()


def test_no_passage_spans_two_sections() -> None:
    """Heading and page are true of all of a passage; positions count through the document."""
    sections = [Section("First text.", "One", 1), Section("Second text. " * 60, "Two", 2), Section("Third.", None, 3)]
    found = list(passages(sections, characters=300, overlap=50))
    assert found[0] == Passage(0, "First text.", "One", 1)
    assert {(p.heading, p.page) for p in found[1:-1]} == {("Two", 2)}
    assert found[-1] == Passage(len(found) - 1, "Third.", None, 3)
    assert [p.position for p in found] == list(range(len(found)))


def test_a_word_without_end_is_cut_at_the_limit() -> None:
    """Text without any break still becomes passages, each within the limit."""
    found = list(passages([Section("x" * 2500)], characters=1000, overlap=150))
    assert [len(p.text) for p in found] == [1000, 1000, 500]


def test_an_overlap_larger_than_half_a_passage_is_bounded() -> None:
    """A setting that cannot work does not make passages without number."""
    text = "word " * 2000
    assert len(list(passages([Section(text)], characters=200, overlap=10_000))) < 2 * len(text) / 100

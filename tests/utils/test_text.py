import pytest

from suffice.utils.text import brief, printable

HOSTILE = {
    "\x1b[2J\x1b]0;owned\x07": r"\x1b[2J\x1b]0;owned\x07",
    "a\nb\r\tc\x00": r"a\nb\r\tc\x00",
    "\x9b31mred": r"\x9b31mred",
    "cat\u202egpj.exe": r"cat\u202egpj.exe",
    "\u2066\u200b\ufeff\u2028": r"\u2066\u200b\ufeff\u2028",
    "\udcff.jpg": r"\udcff.jpg",
    "\U000e0041": r"\U000e0041",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_unprintable_characters_become_escapes(text):
    assert printable(text) == HOSTILE[text]
    printable(text).encode()


def test_printable_text_is_unchanged():
    for text in ("Köln", "猫", "🐈", "a [b] c", "naïve · 3×4 − 1"):
        assert printable(text) == text


def test_long_text_is_cut():
    assert brief("x" * 5_000_000) == "x" * 80 + "…"
    assert brief([1, 2], most=3) == "[1,…"
    assert brief(None) == "None"

r"""Words of others in messages and cells: on one line, cut, and with nothing in them that a terminal would obey.

What would move the cursor, change colors, reverse the direction of reading or be no character at all is shown by
its escape (`\x1b`, `\u202e`, `\udcff`).
"""


def printable(value: object) -> str:
    """Return the text of a value on one line, every character that is not printable as its escape."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def brief(value: object, most: int = 80) -> str:
    """Return the printable text of a value, cut to `most` characters."""
    text = printable(value)
    return text if len(text) <= most else f"{text[:most]}…"

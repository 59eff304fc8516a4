r"""Safe display of untrusted text in messages and table cells: on one line, cut, without control characters.

Characters that move the cursor, change colors or reverse the reading direction, and code points that are no characters,
are shown as escapes (`\x1b`, `\u202e`, `\udcff`).
"""


def printable(value: object) -> str:
    """Return the text of a value on one line, with an escape for each character that is not printable."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def brief(value: object, most: int = 80) -> str:
    """Return the printable text of a value, cut to `most` characters."""
    text = printable(value)
    return text if len(text) <= most else f"{text[:most]}…"

"""Tokens: who sends the one of the server may use it; anyone may see whether it lives."""

import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from suffice_runtime.bundle.entries import printable

VARIABLE = "SUFFICE_RUNTIME_TOKEN"
"""Environment variable with the token."""

PAGE = ("page.css", "page.js", "charts.js", "figures.js", "policies.js", "server.js", "text.js", "icon.svg")
"""Files of the page besides its HTML, which hold no data of the models."""

OPEN = frozenset(("/v2/health/live", "/v2/health/ready", "/", *(f"/page/{name}" for name in PAGE)))
"""Paths that need no token."""

_MAX_BYTES = 4096


def read(file: Path | None, environment: Mapping[str, str] = os.environ) -> bytes | None:
    """Return the token in a file, or in the environment if there is no file, or None without either.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the token is empty, too long, or not of printable ASCII without spaces.
    """
    if file is not None:
        with file.open("rb") as stream:
            payload, where = stream.read(_MAX_BYTES + 2), printable(file, 200)
    elif VARIABLE in environment:
        payload, where = os.fsencode(environment[VARIABLE]), VARIABLE
    else:
        return None
    token = payload.strip(b"\r\n")
    if not token or len(token) > _MAX_BYTES or not all(0x21 <= byte <= 0x7E for byte in token):
        raise ValueError(
            f"expected a token of 1 to {_MAX_BYTES} printable ASCII characters without spaces in {where}, got another "
            "one; write a random one, such as that of python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return token


def allows(token: bytes | None, path: str, authorization: bytes | None) -> bool:
    """Return whether a request may be handled, in a time that does not depend on how much of a token is right.

    Args:
        token: Token of the server, or None if it has none.
        path: Path of the request.
        authorization: Value of its header Authorization, or None.
    """
    if token is None or path in OPEN:
        return True
    scheme, _, given = (authorization or b"").strip().partition(b" ")
    return hmac.compare_digest(given.strip(), token) and scheme.lower() == b"bearer"

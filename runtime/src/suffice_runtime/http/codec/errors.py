"""Errors of bodies that are not those of the protocol."""

from typing import ClassVar


class ProtocolError(ValueError):
    """Body that is not one of the protocol; the message states what was expected, what was got and what to do.

    Attributes:
        status: Status of the HTTP response.
    """

    status: ClassVar[int] = 400


class TooLargeError(ProtocolError):
    """Body above a limit."""

    status = 413


class EncodingError(ProtocolError):
    """Body that is compressed in another way than the server reads."""

    status = 415

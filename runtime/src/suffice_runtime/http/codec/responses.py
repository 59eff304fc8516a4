"""Inference responses: JSON with the outputs inside or behind it."""

from collections.abc import Iterable, Mapping
from typing import Any

from numpy.typing import NDArray

from suffice_runtime.http.codec import binary, listed
from suffice_runtime.http.codec.documents import dump
from suffice_runtime.http.codec.tensors import datatype_of

Array = NDArray[Any]


def encode(entries: Mapping[str, Any], outputs: Iterable[tuple[str, Array, bool]]) -> tuple[bytes, int | None]:
    """Return the body of a response.

    Args:
        entries: Entries before the outputs, such as the name of the model.
        outputs: Name and array of each output, and whether it is returned as bytes behind the JSON.

    Returns:
        The body, and the number of bytes of JSON in it if there are tensors behind it, else None.
    """
    described, parts = list[dict[str, Any]](), list[Array | bytes]()
    for name, array, as_bytes in outputs:
        entry = {"name": name, "datatype": datatype_of(array.dtype), "shape": list(array.shape)}
        if as_bytes:
            part = binary.encode(array)
            parts.append(part)
            size = len(part) if isinstance(part, bytes) else part.nbytes
            described.append({**entry, "parameters": {"binary_data_size": size}})
        else:
            described.append({**entry, "data": listed.encode(array)})
    header = dump({**entries, "outputs": described})
    return b"".join([header, *parts]), len(header) if parts else None

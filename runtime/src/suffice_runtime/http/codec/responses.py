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
    described, parts = list[dict[str, Any]](), list[memoryview]()
    for name, array, as_bytes in outputs:
        entry = {"name": name, "datatype": datatype_of(array.dtype), "shape": list(array.shape)}
        if as_bytes:
            parts.append(binary.encode(array))
            described.append({**entry, "parameters": {"binary_data_size": parts[-1].nbytes}})
        else:
            described.append({**entry, "data": listed.encode(array)})
    header = dump({**entries, "outputs": described})
    return b"".join([header, *parts]), len(header) if parts else None

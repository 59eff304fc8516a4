"""Values as JSON can hold them, and policies in the form of a manifest."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from suffice_runtime.policy import Policy


def entries_of(policy: Policy) -> dict[str, Any]:
    """Return the entries of a policy as a manifest has them."""
    entries: dict[str, Any] = plain(asdict(policy))
    return entries


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it, with "inf" and "-inf" for the infinities and null for NaN."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, np.ndarray):
        return [plain(each) for each in value.tolist()]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return [plain(each) for each in value] if isinstance(value, tuple) else value

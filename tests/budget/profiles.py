"""Profiles with chosen times."""

import torch

from suffice.cost import Profile


def planted(milliseconds: list[float], batch_size: int = 64, copying: float = 0.0) -> Profile:
    """Return a profile with these times for a full batch, of the stages and of copying, and in proportion for fewer."""
    full = torch.tensor([[t / batch_size for t in milliseconds], milliseconds], dtype=torch.float64)
    copies = torch.tensor([[copying / batch_size], [copying]], dtype=torch.float64).expand_as(full)
    nothing = torch.zeros_like(full)
    return Profile((1, batch_size), full, nothing, nothing, copies.contiguous(), batch_size, "planted")

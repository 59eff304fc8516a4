"""Weights that a classifier applies: those of the layer, or those read off from a subclass with a forward of its own.

A subclass of `nn.Linear` may add to its weight, as low-rank adaptations do, or scale it. Its affine map is then read
off from its outputs: b = f(0), and column i of W is f(eᵢ) − b.
"""

import torch
from torch import Tensor, nn

_SCALES = (1.0, -30.0)


def weight_and_bias(classifier: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Return W (C, D) and b (C,) with classifier(φ) = W φ + b; b is None for a layer without a bias.

    Args:
        classifier: Linear layer, in evaluation mode.

    Raises:
        ValueError: If a subclass computes no affine map.
    """
    bias = None if classifier.bias is None else classifier.bias.detach()
    if _is_plain(classifier):
        return classifier.weight.detach(), bias
    with torch.no_grad():
        weight, constant = _read_off(classifier)
    return weight, None if bias is None else constant


def _is_plain(classifier: nn.Linear) -> bool:
    """Return whether a layer runs the forward of `nn.Linear`; its weight may be computed by a parametrization."""
    own = type(classifier).forward is not nn.Linear.forward or type(classifier).__call__ is not nn.Module.__call__
    return not (own or "forward" in vars(classifier) or classifier._forward_hooks or classifier._forward_pre_hooks)


def _read_off(classifier: nn.Linear) -> tuple[Tensor, Tensor]:
    parameters = [parameter for parameter in classifier.parameters() if parameter.is_floating_point()]
    like = parameters[0] if parameters else torch.zeros(())
    basis = torch.eye(classifier.in_features, dtype=like.dtype, device=like.device)
    constant = classifier(torch.zeros_like(basis[:1]))[0]
    weight = (classifier(basis) - constant).T.contiguous()
    generator = torch.Generator().manual_seed(0)
    phi = torch.randn(len(_SCALES), len(basis), generator=generator).to(basis)
    phi = phi * phi.new_tensor(_SCALES)[:, None]
    got, expected = classifier(phi), phi @ weight.T + constant
    size = phi.abs() @ weight.abs().T + constant.abs()
    if not bool(((got - expected).abs() <= torch.finfo(got.dtype).eps ** 0.5 * size).all()):
        raise ValueError(
            f"expected a classifier that computes W φ + b, got {type(classifier).__name__}, whose outputs are no "
            "affine map of φ; move what it does before the linear layer into the exit's features, or pass "
            "structure=None for no posterior"
        )
    return weight, constant

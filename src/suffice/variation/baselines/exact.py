"""Recognition of modules whose mathematics is that of a class of torch, so that a formula may replace them.

A subclass with a forward of its own, a forward that was assigned to the instance, a hook or a parametrization may each
compute something else with the same attributes, such as a low-rank update of a linear layer.
"""

from torch import nn


def computes_as(module: nn.Module, base: type[nn.Module]) -> bool:
    """Return whether a module runs the forward of `base` and nothing else; a subclass may differ in its construction.

    Args:
        module: Module of any class.
        base: Class whose forward, inherited or not, is compared.
    """
    kind = type(module)
    if not isinstance(module, base) or kind.forward is not base.forward or kind.__call__ is not nn.Module.__call__:
        return False
    return "forward" not in vars(module) and not any(
        (module._forward_hooks, module._forward_pre_hooks, _replaced(module))
    )


def _replaced(module: nn.Module) -> bool:
    """Return whether a weight is computed anew at each access, or the module is compiled."""
    return nn.utils.parametrize.is_parametrized(module) or vars(module).get("_compiled_call_impl") is not None

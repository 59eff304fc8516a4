"""Small networks and data for tests."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from suffice import cost
from suffice.calibration.calibrated import Calibrated
from suffice.calibration.ensemble import Combination
from suffice.calibration.exits import CalibratedExit, with_bias
from suffice.calibration.posterior import kronecker
from suffice.calibration.serving.served import serving_placement
from suffice.evaluation.ablation import AVERAGE
from suffice.network import Exit, ExitNetwork
from suffice.storage.fingerprint import fingerprint


class NestedStage(nn.Module):
    """Stage whose state is a nest: the hidden layer, its history, and an integer per example."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, width_out)

    def forward(self, state):
        if isinstance(state, Tensor):
            state = {"h": state, "past": [], "age": torch.zeros(state.shape[0], dtype=torch.long)}
        hidden = self.linear(state["h"]).tanh()
        return {"h": hidden, "past": [*state["past"], hidden.sum(dim=1)], "age": state["age"] + 1}


class Hidden(nn.Module):
    """Features of a nested state that depend on the history, which reveals rows that were not selected together."""

    def forward(self, state):
        return state["h"] + sum(state["past"])[:, None] * 0.1 + state["age"][:, None]


PAPER = {"link": "sampled", **AVERAGE}
"""Link and ensemble of the paper, as arguments of `calibrate`."""


def network(
    widths: Sequence[int] = (6, 5, 7),
    classes: int = 4,
    inputs: int = 3,
    bias: bool = True,
    nested: bool = False,
    seed: int = 0,
    scale: float = 2.0,
) -> ExitNetwork:
    """Return a network of linear stages with random weights in evaluation mode; `scale` spreads its logits."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        stages, exits = [], []
        for width_in, width_out in zip([inputs, *widths], widths, strict=False):
            linear = nn.Sequential(nn.Linear(width_in, width_out), nn.Tanh())
            stages.append(NestedStage(width_in, width_out) if nested else linear)
            classifier = nn.Linear(width_out, classes, bias=bias)
            nn.init.normal_(classifier.weight, std=scale)
            exits.append(Exit(Hidden() if nested else nn.Identity(), classifier))
    return ExitNetwork(stages, exits).eval()


def trained(net: ExitNetwork, x: Tensor, loss: Callable[[Tensor], Tensor], steps: int = 200) -> ExitNetwork:
    """Train all exits of a network briefly on x with a loss of an exit's outputs, and return the network."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.stack([loss(outputs) for outputs in net(x)]).sum().backward()
        optimizer.step()
    optimizer.zero_grad()
    return net


def identity_network(classes: int) -> ExitNetwork:
    """Return a network of one stage and one exit whose logits are its inputs."""
    classifier = nn.Linear(classes, classes, bias=False)
    nn.init.eye_(classifier.weight)
    return ExitNetwork([nn.Identity()], [Exit(nn.Identity(), classifier)]).eval()


def inputs(count: int, width: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def sampled_labels(logits: Tensor, temperature: float = 1.0, seed: int = 0) -> Tensor:
    """Sample labels from softmax(logits / temperature)."""
    probs = (logits.detach().double() / temperature).softmax(dim=-1)
    return probs.multinomial(1, generator=torch.Generator().manual_seed(seed))[:, 0]


def batched(x: Tensor, y: Tensor | None = None, size: int = 16) -> list:
    """Split examples into a list of batches, which is a loader."""
    if y is None:
        return list(x.split(size))
    return list(zip(x.split(size), y.split(size), strict=True))


def untuned(
    net: ExitNetwork,
    x: Tensor,
    structure: str | None = "kronecker",
    ensemble: Combination = "average",
    samples: int = 8,
    temperature: float = 1.0,
) -> Calibrated:
    """Calibrate a network without tuning δ and T, which is fast."""
    exits, state = [], x
    with torch.no_grad():
        for k in range(len(net.exits)):
            state, phi = net.advance(k, state)
            classifier = net.exit(k).classifier
            bias = None if classifier.bias is None else 1.0
            exit_ = CalibratedExit(temperature=temperature, bias=bias)
            if structure is not None:
                phi, logits = with_bias(phi, bias), classifier(phi)
                sums = kronecker.init(phi.shape[1], logits.shape[1])
                posterior = kronecker.Posterior.fit(kronecker.update(sums, phi, logits))
                exit_ = exit_.with_posterior(posterior, "sampled", samples, torch.Generator().manual_seed(k))
            exits.append(exit_.to(*serving_placement(net)))
    return Calibrated(net, exits, ensemble, cost.count(net, x), fingerprint(net))


def watch_batch_sizes(net: ExitNetwork) -> list[tuple[int, int]]:
    """Return a list to which every call of a stage appends (stage, batch size)."""
    calls: list[tuple[int, int]] = []
    for k, stage in enumerate(net.stages):
        stage.register_forward_pre_hook(
            lambda _, args, k=k: calls.append((k, len(args[0] if isinstance(args[0], Tensor) else args[0]["h"])))
        )
    return calls


def poison(net: ExitNetwork, x: Tensor, position: int, stage: int = 1, fail: bool = False) -> ExitNetwork:
    """Make a stage of a network return NaN for one example of x, or raise if `fail`, and return the network."""
    with torch.no_grad():
        state = x[position : position + 1]
        for before in net.stages[:stage]:
            state = before(state)

    def hook(module, args, out):
        poisoned = torch.isclose(args[0], state, atol=1e-6).all(dim=1)
        if fail and poisoned.any():
            raise ArithmeticError("a stage that fails for this example")
        return out.masked_fill(poisoned[:, None], torch.nan)

    net.stages[stage].register_forward_hook(hook)
    return net

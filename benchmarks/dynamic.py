"""Speed of early exits relative to the full network, to the expected speed-up, and to peers.

`make bench-dynamic` prints one interleaved run on one thread, on the small MSDNet with random weights and 32×32 color
images. The full network consists of all stages and the last exit, without uncertainty. The rows that compare with
`earlyon` require that package.
"""

import argparse
import math
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import suffice
from suffice.budget.policy import Policy
from suffice.budget.thresholds.families import choose, geometric_shares, rank, thresholds_for
from suffice.calibration.calibrated import Calibrated
from suffice.evaluation import ABLATION, LADDER
from suffice.evaluation.ablation import AVERAGE
from suffice.network import ExitNetwork
from suffice.utils.timing import interleaved

CLASSES = 100
Row = tuple[str, str, str, str]


def network() -> ExitNetwork:
    """Return the network of all rows but the first, in evaluation mode."""
    torch.manual_seed(0)
    return suffice.models.msdnet("cifar-small", CLASSES).eval()


def calibrate(net: ExitNetwork, batch: int = 256) -> tuple[Calibrated, list[tuple[Tensor, Tensor]]]:
    """Calibrate the network with a posterior and the average of its exits; return it with its calibration batches."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4 * batch, 3, 32, 32, generator=generator)
    loader = list(zip(images.split(batch), torch.randint(CLASSES, (4, batch), generator=generator), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # with random weights, priors end at the edge of their range
        choices = {**ABLATION["all"], "temperature": False}
        return suffice.calibrate(net, loader, loader, generator=generator, **choices), loader


def full(net: ExitNetwork, x: Tensor) -> Tensor:
    """Compute the logits of the last exit only."""
    for stage in net.stages:
        x = stage(x)
    logits: Tensor = net.exit(len(net.exits) - 1)(x)
    return logits


def search(examples: int = 50_000, num_exits: int = 8) -> list[Row]:
    """Compare the search for 39 policies with the loop of MSDNet's public code, on tensors and on lists."""
    generator = torch.Generator().manual_seed(0)
    scores = list(torch.rand(num_exits, examples, generator=generator, dtype=torch.float64))
    shares = [geometric_shares(math.log(q), num_exits) for q in LADDER]

    def search_all() -> list[Tensor]:
        ranked = rank(scores)
        return [thresholds_for(ranked, each) for each in shares]

    times = interleaved({"ours": search_all}, repeats=5)
    rows = []
    for name, loop, budgets in (("tensors", on_tensors, 3), ("lists", on_lists, len(shares))):
        started = time.perf_counter()
        theirs = loop(scores, shares[:: len(shares) // budgets][:budgets])
        peer_ms = (time.perf_counter() - started) * 1e3 * len(shares) / budgets
        thresholds = search_all()[:: len(shares) // budgets][:budgets]
        same = all(agree(scores, a, b) for a, b in zip(thresholds, theirs, strict=True))
        rows.append(
            (
                f"policy search, {examples:,} × {num_exits} × 39: loop over {name} / ours",
                f"{peer_ms:,.0f} / {times['ours']:.0f} ms",
                f"{peer_ms / times['ours']:.0f}×",
                f"≥ 80×; {'same exits' if same else 'OTHER EXITS'}",
            )
        )
    return rows


def on_tensors(scores: list[Tensor], shares: list[Tensor]) -> list[Tensor]:
    """Compute thresholds with the loop of MSDNet's `dynamic_eval_find_threshold`, one tensor element at a time."""
    n = len(scores[0])
    orders = [each.sort(descending=True).indices for each in scores]
    results = []
    for share in shares:
        finished, thresholds = torch.zeros(n), torch.full((len(scores) - 1,), 1e8, dtype=torch.float64)
        for k in range(len(scores) - 1):
            count, target = 0, target_count(share, k, n)
            for i in range(n):
                example = orders[k][i]
                if finished[example] == 0:
                    count += 1
                    if count == target:
                        thresholds[k] = scores[k][example]
                        break
            finished.add_((scores[k] >= thresholds[k]).type_as(finished))
        results.append(thresholds)
    return results


def on_lists(scores: list[Tensor], shares: list[Tensor]) -> list[Tensor]:
    """Run the loop of `on_tensors` on Python lists, which are faster to index."""
    n, values = len(scores[0]), [each.tolist() for each in scores]
    orders = [each.sort(descending=True).indices.tolist() for each in scores]
    results = []
    for share in shares:
        finished, thresholds = [False] * n, [math.inf] * (len(scores) - 1)
        for k in range(len(scores) - 1):
            count, target = 0, target_count(share, k, n)
            for example in orders[k]:
                if not finished[example]:
                    count += 1
                    if count == target:
                        thresholds[k] = values[k][example]
                        break
            for example in range(n):
                finished[example] = finished[example] or values[k][example] >= thresholds[k]
        results.append(torch.tensor(thresholds, dtype=torch.float64))
    return results


def target_count(share: Tensor, k: int, n: int) -> int:
    """Return the number of examples that exit k should stop, from cumulative shares as in this library."""
    before = round(float(share[:k].sum()) * n) if k else 0
    return round(float(share[: k + 1].sum()) * n) - before


def agree(scores: list[Tensor], a: Tensor, b: Tensor) -> bool:
    """Return whether two sets of thresholds stop the same examples at the same exits."""
    return torch.equal(choose(scores, a), choose(scores, b))


def half_cost(calibrated: Calibrated, loader: list[tuple[Tensor, Tensor]]) -> list[Row]:
    """Measure `run` at batch size 256 with half the multiply-adds, and compare it with the expected speed-up."""
    x, net = loader[0][0], calibrated.network
    profile = suffice.cost.profile(calibrated, x, batch_sizes=(8, 32, 64, 128, 192), repeats=5)
    policy = suffice.allocate(calibrated, loader, 0.5, profile=profile)
    shares = torch.bincount(suffice.run(calibrated, policy, x).exit, minlength=len(net.exits)).double() / len(x)
    with torch.no_grad():
        times = interleaved(
            {"full": lambda: full(net, x), "run": lambda: suffice.run(calibrated, policy, x)}, repeats=9
        )
    ms = sum(profile.stages[-1].tolist()) + float(profile.exits[-1, -1])
    reached, by_ms = times["full"] / times["run"], ms / len(x) / profile.per_example(shares)
    costs = torch.tensor(calibrated.costs.cumulative, dtype=torch.float64)
    plain = calibrated.costs.network[-1] - sum(calibrated.costs.exits[:-1])
    by_macs = plain / float(shares @ costs)
    measured = f"{times['full']:.0f} / {times['run']:.0f} ms"
    return [
        ("run, batch 256, half the cost: full / run", measured, f"{reached:.2f}×", ""),
        ("… of the speed-up expected from milliseconds", f"{by_ms:.2f}×", f"{reached / by_ms:.0%}", "≥ 85 %"),
        ("… of the speed-up expected from multiply-adds", f"{by_macs:.2f}×", f"{reached / by_macs:.0%}", ""),
        uncertainty_cost(profile),
    ]


def uncertainty_cost(profile: suffice.cost.Profile) -> Row:
    """Compute the cost of the uncertainty relative to a pass in which no example stops early."""
    uncertainty = float(profile.uncertainty[-1].sum())
    plain = float(profile.stages[-1].sum() + profile.exits[-1].sum())
    return (
        "uncertainty (Laplace, ensemble) / network",
        f"{uncertainty:.1f} / {plain:.1f} ms",
        f"{uncertainty / plain:.1%}",
        "≤ 3 %",
    )


def one_at_a_time(calibrated: Calibrated, loader: list[tuple[Tensor, Tensor]]) -> list[Row]:
    """Measure `run` at batch size 1 with and without a posterior."""
    net = calibrated.network
    plain = suffice.calibrate(net, None, loader, structure=None, temperature=False, **AVERAGE)
    rows = single_rows(calibrated, loader[0][0][:1], "all on")
    return rows + single_rows(plain, loader[0][0][:1], "no posterior")


def single_rows(calibrated: Calibrated, x: Tensor, title: str) -> list[Row]:
    """Measure single examples, of which a fifth stop at the first exit and the others at the last (the worst case)."""
    net = calibrated.network
    first, last = (constant_policy(calibrated, threshold) for threshold in (-math.inf, math.inf))
    with torch.no_grad():
        times = interleaved(
            {
                "last exit alone": lambda: full(net, x),
                "all exits": lambda: net(x),
                "first": lambda: suffice.run(calibrated, first, x),
                "last": lambda: suffice.run(calibrated, last, x),
            },
            repeats=60,
        )
    mixed = 0.2 * times["first"] + 0.8 * times["last"]
    rows = []
    for peer in ("all exits", "last exit alone"):
        share = (times["last"] - times[peer]) / (times["last"] - times["first"])
        name = f"run, batch 1, {title}, 20 % at the first exit, 80 % at the last / network, {peer}"
        measured = f"{mixed:.1f} / {times[peer]:.1f} ms"
        rows.append((name, measured, f"{mixed / times[peer]:.2f}×", f"≤ 1×; even at {share:.0%}"))
    return rows


def constant_policy(calibrated: Calibrated, threshold: float) -> Policy:
    """Return a policy with one threshold for all exits."""
    num_exits = len(calibrated.exits)
    thresholds = torch.full((num_exits - 1,), threshold, dtype=torch.float64)
    return Policy(thresholds, "confidence", math.nan, math.nan, torch.zeros(num_exits), calibrated.digest)


class Backbone(nn.Module):
    """Backbone for `earlyon`, which hooks the stages by name: the stages in sequence and the last exit."""

    def __init__(self, net: ExitNetwork) -> None:
        super().__init__()
        self.stages, self.head = net.stages, net.exit(len(net.exits) - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of the last exit."""
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.head(x)
        return logits


def beside_earlyon(net: ExitNetwork, loader: list[tuple[Tensor, Tensor]], batch: int = 64) -> list[Row]:
    """Compare throughput at the same thresholds on the same network, without uncertainty."""
    if find_spec("earlyon") is None:
        return [("beside earlyon 0.3.0", "", "not installed", "≥ 1.5×")]
    from earlyon import EarlyExitConfig, EarlyExitWrapper, ExitPoint

    plain = suffice.calibrate(net, None, loader, structure=None, temperature=False, ensemble=False)
    policy = suffice.allocate(plain, loader, 0.5)
    names = [f"e{k}" for k in range(len(net.exits) - 1)]
    points = [ExitPoint(name, f"stages.{k}", CLASSES) for k, name in enumerate(names)]
    limits = [min(1.0, float(each)) for each in policy.thresholds.sigmoid()]  # suffice uses log-odds
    config = EarlyExitConfig("custom", CLASSES, points, confidence_thresholds=limits)
    heads = {name: net.exit(k) for k, name in enumerate(names)}
    peer = EarlyExitWrapper(Backbone(net), heads, nn.Identity(), config, input_shape=(1, 3, 32, 32)).eval()
    x = loader[0][0][:batch]
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: suffice.run(plain, policy, x),
        "batched": lambda: peer.forward_inference_batched(x),
        "singly": lambda: [peer(one) for one in x.split(1)],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it estimates operations with a package that may be missing
        times = interleaved(ways, repeats=7)
        exits = [peer(one).exit_taken % len(net.exits) for one in x.split(1)]
    same = float((torch.tensor(exits) == suffice.run(plain, policy, x).exit).double().mean())
    rows = []
    for way, name in (
        ("batched", "its batched mode, which waits for the hardest"),
        ("singly", "one example at a time"),
    ):
        measured, ratio = f"{times[way]:.0f} / {times['ours']:.0f} ms", times[way] / times["ours"]
        rows.append((f"earlyon, batch 64, {name} / ours", measured, f"{ratio:.2f}×", "≥ 1.5×"))
    rows.append(("… share of examples that leave at the same exit, one at a time", "", f"{same:.0%}", ""))
    return rows


def main() -> None:
    """Run the benchmark and print its table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    net = network()
    calibrated, loader = calibrate(net)
    table = Table("case", "measured", "ratio", "must reach", title="one thread, MSDNet small, 100 classes")
    for rows in (
        search(),
        half_cost(calibrated, loader),
        one_at_a_time(calibrated, loader),
        beside_earlyon(net, loader),
    ):
        for row in rows:
            table.add_row(*row)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()

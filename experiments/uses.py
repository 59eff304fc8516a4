"""What a variation is for, on MovieLens: which film to show, which rating to doubt, whom to ask for more ratings.

A rating tower knows ten ratings of each of 200 users. In each of three rounds every user rates three more films, which
one rule chooses among the films that the user has rated in truth, and the tower is trained again from the start. The
variation comes from one ordinary pass (`fit_variation`, ten dropout passes to teach it). Ratings kept aside, a fifth
of each user's, say what the tower has learned; then they are refused an answer where the variation is high.

    suffice data import movielens-1m FILE
    python experiments/uses.py

prints the tables of docs/uses.md and writes the runs as JSON beside this file. Some minutes on one core.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import suffice
from suffice.data.store import lookup
from suffice.reproduce import ledger
from suffice.reproduce.markdown import spread
from suffice.variation import uses
from suffice.variation.learning import agreement

SEEDS = (0, 1, 2)
USERS, KNOWN, ROUNDS, SHOWN = 200, 10, 3, 3
EPOCHS, BATCH, DROPOUT = 4, 256, 0.2
COVERAGES = (1.0, 0.9, 0.7, 0.5)
TEACHER = suffice.MCDropout(passes=10, likelihood="regression")


@dataclass(frozen=True)
class Candidates:
    """Films that could be shown: user (N,), predicted rating and variation (N,), and the randomness of the round."""

    user: Tensor
    mean: Tensor
    variation: Tensor
    generator: torch.Generator


Rule = Callable[[Candidates], Tensor]
"""Which candidates are shown, int64."""


def ranks(score: Tensor, user: Tensor) -> Tensor:
    """Place of each row among its user's, from 0 for the highest score."""
    order = score.argsort(descending=True)
    order = order[user[order].argsort(stable=True)]
    counts = torch.bincount(user, minlength=USERS)
    starts = counts.cumsum(0) - counts
    return torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)) - starts[user[order]])


def each_user(score: Tensor, user: Tensor) -> Tensor:
    """The candidates of the highest scores, `SHOWN` of each user."""
    return (ranks(score, user) < SHOWN).nonzero()[:, 0]


RULES: dict[str, Rule] = {
    "at random": lambda c: each_user(torch.rand(len(c.mean), generator=c.generator), c.user),
    "greedy": lambda c: each_user(c.mean, c.user),
    "UCB, w = 1": lambda c: each_user(uses.ucb(c.mean, c.variation), c.user),
    "Thompson": lambda c: each_user(uses.thompson(c.mean, c.variation, generator=c.generator), c.user),
    "acquire, β = 1": lambda c: uses.acquire(c.variation, SHOWN * USERS, power=1.0, generator=c.generator),
    "acquire, the greatest": lambda c: uses.acquire(c.variation, SHOWN * USERS),
}
"""By name; `acquire` chooses among all users' films alike."""


def main() -> None:
    """Run all seeds, print the tables, write the JSON."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    runs = [one_seed(seed) for seed in SEEDS]
    files = lookup.find("movielens-1m").manifest["files"]
    results = {
        "command": "python experiments/uses.py",
        **ledger.circumstances(),
        "data": {name: entry["sha256"] for name, entry in files.items()},
        "seeds": SEEDS,
        "users": USERS,
        "known": KNOWN,
        "shown": ROUNDS * SHOWN,
        "runs": runs,
    }
    ledger.write(Path(__file__).with_suffix(".json"), results)
    constant = spread([run["constant"] for run in runs])
    print(f"{shown(runs)}\n\nRMSE of the mean rating: {constant}\n\n{refused(runs)}")


def one_seed(seed: int) -> dict[str, Any]:
    """Every rule for the same users and films, and what it is worth to refuse doubtful ratings."""
    generator = torch.Generator().manual_seed(seed)
    x, rating = ratings(seed, generator)
    place = ranks(torch.rand(len(x), generator=generator), x[:, 0])
    count = torch.bincount(x[:, 0])[x[:, 0]]
    known, test = place < KNOWN, place >= count - count // 5
    rules, last = {}, None
    for name, rule in RULES.items():
        seen, liked, rated = known.clone(), [], torch.Generator().manual_seed(seed)
        for _ in range(ROUNDS):
            pool = (~seen & ~test).nonzero()[:, 0]
            mean, variation = answered(x, rating, seen, pool, pool, rated)
            shown = pool[rule(Candidates(x[pool, 0], mean, variation, rated))]
            seen[shown] = True
            liked.append(rating[shown])
        kept, pool = test.nonzero()[:, 0], (~seen & ~test).nonzero()[:, 0]
        mean, variation = answered(x, rating, seen, pool, kept, rated)
        error = rating[kept] - mean
        rules[name] = {"liked": float(torch.cat(liked).mean()), "rmse": rms(error)}
        last = last or {"refused": refusing(error, variation), "ranks": agreement.spearman(variation, error.abs())}
    return {"rules": rules, **last, "constant": rms(rating[test] - rating[known].mean())}


def ratings(seed: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """User (from 0) and film (N, 2) of all ratings of `USERS` users who gave 50 or more, and the ratings (N,)."""
    batches = list(suffice.data.load("movielens-1m", seed=seed).train.batches())
    x, rating = (torch.cat([batch[name] for batch in batches]) for name in ("categorical", "labels"))
    many = (torch.bincount(x[:, 0]) >= 50).nonzero()[:, 0]
    users = many[torch.randperm(len(many), generator=generator)[:USERS]]
    number = torch.full((int(x[:, 0].max()) + 1,), -1).index_copy_(0, users, torch.arange(USERS))
    mine = number[x[:, 0]] >= 0
    return torch.stack([number[x[mine, 0]], x[mine, 1]], dim=1), rating[mine]


def answered(
    x: Tensor, rating: Tensor, known: Tensor, pool: Tensor, asked: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Predicted rating and variation of the rows asked for, by a tower of the known ratings."""
    level = rating[known].mean()
    model = trained(x[known], rating[known] - level, int(x[:, 1].max()) + 1, generator)
    some = pool[torch.randperm(len(pool), generator=generator)]  # films without a rating teach the estimator too
    train, validation = x[some[2000:6000]], x[some[:2000]]
    estimator = suffice.fit_variation(
        model, [train], [validation], teacher=TEACHER, layers="last", epochs=8, generator=generator
    )
    found = estimator.estimate(x[asked])
    return found.output[-1][:, 0] + level, found.variation


def trained(x: Tensor, rating: Tensor, films: int, generator: torch.Generator) -> nn.Module:
    """A small rating tower."""
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        model = suffice.models.tower([USERS, films], embedding=8, hidden=(32, 16), dropout=DROPOUT)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-3)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(x), generator=generator).split(BATCH):
                optimizer.zero_grad()
                (model(x[rows])[-1][:, 0] - rating[rows]).square().mean().backward()
                optimizer.step()
    return model.eval()


def refusing(error: Tensor, variation: Tensor) -> dict[str, dict[str, float]]:
    """Share answered and error of the answered, refusing by a threshold that comes from every other rating."""
    found = {}
    for coverage in COVERAGES:
        answered = ~uses.abstain(variation[1::2], variation[::2], coverage)
        found[str(coverage)] = {"answered": float(answered.double().mean()), "rmse": rms(error[1::2][answered])}
    return found


def rms(error: Tensor) -> float:
    """Root of the mean square."""
    return float(error.double().square().mean().sqrt())


def shown(runs: list[dict[str, Any]]) -> str:
    """What each rule is worth: mean ± standard deviation over seeds."""
    lines = ["| rule | mean rating of the recommended movies | RMSE afterwards |", "|---|---|---|"]
    for name in RULES:
        cells = [spread([run["rules"][name][measure] for run in runs]) for measure in ("liked", "rmse")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def refused(runs: list[dict[str, Any]]) -> str:
    """What refusing is worth."""
    lines = ["| requested coverage | coverage, % | RMSE of the covered ratings |", "|---|---|---|"]
    for coverage in map(str, COVERAGES):
        rows = [run["refused"][coverage] for run in runs]
        share = spread([100 * row["answered"] for row in rows], digits=1)
        lines.append(f"| {coverage} | {share} | {spread([row['rmse'] for row in rows])} |")
    ranks = spread([run["ranks"] for run in runs])
    return "\n".join([*lines, "", f"rank correlation of the variation with the size of the error: {ranks}"])


if __name__ == "__main__":
    main()

"""Evaluate uses of the variation on MovieLens: recommendation, abstention, and acquisition of ratings.

A rating tower is trained on ten ratings of each of 200 users. In each of three rounds a rule selects three more films
per user among those that the user has rated, their ratings are added, and the tower is trained from scratch. The
variation comes from one deterministic forward pass (`fit_variation` with ten dropout passes per label). A fifth of each
user's ratings is held out to measure the error, with and without abstaining where the variation is high.

    suffice data import movielens-1m FILE
    python experiments/uses.py

prints the tables of docs/uses.md and writes the runs as JSON beside this file. It takes some minutes on one core.
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
USERS, INITIAL, ROUNDS, SHOWN = 200, 10, 3, 3
EPOCHS, BATCH, DROPOUT = 4, 256, 0.2
COVERAGES = (1.0, 0.9, 0.7, 0.5)
TEACHER = suffice.MCDropout(passes=10, likelihood="regression")


@dataclass(frozen=True)
class Candidates:
    """Films that a rule selects from: user, predicted rating and variation, each (N,), and a generator."""

    user: Tensor
    mean: Tensor
    variation: Tensor
    generator: torch.Generator


Rule = Callable[[Candidates], Tensor]
"""Function from the candidates to the indices (n,) int64 of those that are shown."""


def ranks(score: Tensor, user: Tensor) -> Tensor:
    """Rank each row among the rows of its user, from 0 for the highest score."""
    order = score.argsort(descending=True)
    order = order[user[order].argsort(stable=True)]
    counts = torch.bincount(user, minlength=USERS)
    starts = counts.cumsum(0) - counts
    return torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)) - starts[user[order]])


def top_per_user(score: Tensor, user: Tensor) -> Tensor:
    """Select the `SHOWN` candidates with the highest scores for each user."""
    return (ranks(score, user) < SHOWN).nonzero()[:, 0]


RULES: dict[str, Rule] = {
    "at random": lambda c: top_per_user(torch.rand(len(c.mean), generator=c.generator), c.user),
    "greedy": lambda c: top_per_user(c.mean, c.user),
    "UCB, w = 1": lambda c: top_per_user(uses.ucb(c.mean, c.variation), c.user),
    "Thompson": lambda c: top_per_user(uses.thompson(c.mean, c.variation, generator=c.generator), c.user),
    "acquire, β = 1": lambda c: uses.acquire(c.variation, SHOWN * USERS, power=1.0, generator=c.generator),
    "acquire, the greatest": lambda c: uses.acquire(c.variation, SHOWN * USERS),
}
"""Rules by name; those with `acquire` select from the films of all users together."""


def main() -> None:
    """Run all seeds, write the JSON, and print the tables."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    runs = [run_seed(seed) for seed in SEEDS]
    files = lookup.find("movielens-1m").manifest["files"]
    results = {
        "command": "python experiments/uses.py",
        **ledger.provenance(),
        "data": {name: entry["sha256"] for name, entry in files.items()},
        "seeds": SEEDS,
        "users": USERS,
        "known": INITIAL,
        "shown": ROUNDS * SHOWN,
        "runs": runs,
    }
    ledger.write(Path(__file__).with_suffix(".json"), results)
    constant = spread([run["constant"] for run in runs])
    print(f"{rules_table(runs)}\n\nRMSE of the mean rating: {constant}\n\n{abstention_table(runs)}")


def run_seed(seed: int) -> dict[str, Any]:
    """Evaluate every rule on the same users and films, and abstention with the first rule."""
    generator = torch.Generator().manual_seed(seed)
    x, rating = ratings(seed, generator)
    rank = ranks(torch.rand(len(x), generator=generator), x[:, 0])
    count = torch.bincount(x[:, 0])[x[:, 0]]
    initial, test = rank < INITIAL, rank >= count - count // 5
    rules, abstention = {}, None
    for name, rule in RULES.items():
        known, shown_ratings, rule_generator = initial.clone(), [], torch.Generator().manual_seed(seed)
        for _ in range(ROUNDS):
            pool = (~known & ~test).nonzero()[:, 0]
            mean, variation = predict(x, rating, known, pool, pool, rule_generator)
            shown = pool[rule(Candidates(x[pool, 0], mean, variation, rule_generator))]
            known[shown] = True
            shown_ratings.append(rating[shown])
        test_rows, pool = test.nonzero()[:, 0], (~known & ~test).nonzero()[:, 0]
        mean, variation = predict(x, rating, known, pool, test_rows, rule_generator)
        error = rating[test_rows] - mean
        rules[name] = {"liked": float(torch.cat(shown_ratings).mean()), "rmse": rms(error)}
        abstention = abstention or {
            "refused": evaluate_abstention(error, variation),
            "ranks": agreement.spearman(variation, error.abs()),
        }
    return {"rules": rules, **abstention, "constant": rms(rating[test] - rating[initial].mean())}


def ratings(seed: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Read all ratings of `USERS` random users with at least 50 ratings: users and films (N, 2), and ratings (N,)."""
    batches = list(suffice.data.load("movielens-1m", seed=seed).train.batches(shuffle=False))
    x, rating = (torch.cat([batch[name] for batch in batches]) for name in ("categorical", "labels"))
    active = (torch.bincount(x[:, 0]) >= 50).nonzero()[:, 0]
    users = active[torch.randperm(len(active), generator=generator)[:USERS]]
    index = torch.full((int(x[:, 0].max()) + 1,), -1).index_copy_(0, users, torch.arange(USERS))
    rows = index[x[:, 0]] >= 0
    return torch.stack([index[x[rows, 0]], x[rows, 1]], dim=1), rating[rows]


def predict(
    x: Tensor, rating: Tensor, known: Tensor, pool: Tensor, rows: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Train a tower on the known ratings, and return predicted rating and variation (n,) of the given rows."""
    mean_rating = rating[known].mean()
    model = train_tower(x[known], rating[known] - mean_rating, int(x[:, 1].max()) + 1, generator)
    shuffled = pool[torch.randperm(len(pool), generator=generator)]  # the estimator needs no ratings
    train, validation = x[shuffled[2000:6000]], x[shuffled[:2000]]
    estimator = suffice.fit_variation(
        model, [train], [validation], teacher=TEACHER, layers="last", epochs=8, generator=generator
    )
    estimate = estimator.estimate(x[rows])
    return estimate.output[-1][:, 0] + mean_rating, estimate.variation


def train_tower(x: Tensor, rating: Tensor, films: int, generator: torch.Generator) -> nn.Module:
    """Train a small rating tower."""
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


def evaluate_abstention(error: Tensor, variation: Tensor) -> dict[str, dict[str, float]]:
    """Compute the answered fraction and its RMSE on every other rating, with thresholds from the remaining ones."""
    results = {}
    for coverage in COVERAGES:
        answered = ~uses.abstain(variation[1::2], variation[::2], coverage)
        results[str(coverage)] = {"answered": float(answered.double().mean()), "rmse": rms(error[1::2][answered])}
    return results


def rms(error: Tensor) -> float:
    """Compute the root mean square."""
    return float(error.double().square().mean().sqrt())


def rules_table(runs: list[dict[str, Any]]) -> str:
    """Format the measures of each rule, mean ± standard deviation over seeds."""
    lines = ["| rule | mean rating of the recommended movies | RMSE afterwards |", "|---|---|---|"]
    for name in RULES:
        cells = [spread([run["rules"][name][measure] for run in runs]) for measure in ("liked", "rmse")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def abstention_table(runs: list[dict[str, Any]]) -> str:
    """Format the measures of abstention, mean ± standard deviation over seeds."""
    lines = ["| requested coverage | coverage, % | RMSE of the covered ratings |", "|---|---|---|"]
    for coverage in map(str, COVERAGES):
        rows = [run["refused"][coverage] for run in runs]
        share = spread([100 * row["answered"] for row in rows], digits=1)
        lines.append(f"| {coverage} | {share} | {spread([row['rmse'] for row in rows])} |")
    ranks = spread([run["ranks"] for run in runs])
    return "\n".join([*lines, "", f"rank correlation of the variation with the size of the error: {ranks}"])


if __name__ == "__main__":
    main()

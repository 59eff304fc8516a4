"""Every experiment by name: what it shows, what reduces it, how it is run and which tables it makes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from suffice.progress import Progress
from suffice.reproduce import (
    dropout_tables,
    dynamic_tables,
    ensembles,
    exits,
    ledger,
    letters,
    lite0,
    msdnets,
    recommenders,
)
from suffice.reproduce.ledger import Results
from suffice.reproduce.msdnets import SETUPS, Recipe

Run = Callable[[Path, Progress], Results]
Table = Callable[[Results], str]
State = tuple[str, str]
"""Of results: "full", "reduced", "smoke" (worth nothing beyond that the command works) or "not run"; and why."""


@dataclass(frozen=True)
class Options:
    """What may be asked for beside the name; only where a network is trained by paper one's recipe.

    Attributes:
        epochs: of training; None for the paper's.
        seed: of everything random.
        validation: images held out of the training part; None for the data set's own number.
        float32: train in float32, and not in bfloat16.
        eager: train without `torch.compile`.
        also: losses of `dynamic.OTHERS` to train one more network with, each.
    """

    epochs: int | None = None
    seed: int = 0
    validation: int | None = None
    float32: bool = False
    eager: bool = False
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """A group of tables that one command makes.

    Attributes:
        title: one line.
        source: the data set, by its name in the store.
        run: makes `out/NAME.json`, and tells what it is doing.
        tables: from the results, Markdown.
        judged: from the results, their state beside the paper's setting.
        configured: for `Options`, another `run`; None where there is nothing to choose.
    """

    title: str
    source: str
    run: Run
    tables: Mapping[str, Table]
    judged: Callable[[Results], State]
    configured: Callable[[Options], Run] | None = None

    def state(self, path: Path) -> State:
        """Of the results in a file."""
        return self.judged(ledger.read(path)) if path.exists() else ("not run", "")


def _full(results: Results) -> State:
    del results
    return "full", ""


def _reduced(because: str) -> Callable[[Results], State]:
    return lambda results: ("reduced", because)


def _dropout(title: str, source: str, run: Run, judged: Callable[[Results], State] = _full) -> Experiment:
    return Experiment(f"dropout variation of {title}", source, run, dropout_tables.TABLES, judged)


def _msdnet(source: str, data: str, size: str) -> Experiment:
    """Paper one's recipe on a data set."""

    def configured(options: Options) -> Run:
        precise, eager = options.float32, options.eager
        recipe = Recipe(source, size, options.epochs, options.seed, options.validation, not precise, not eager)
        return partial(msdnets.run, recipe, also=options.also)

    def judged(results: Results) -> State:
        settings, setup = results["settings"], SETUPS[source]
        short = settings["epochs"] != setup.epochs
        because = f"{settings['epochs']} of {setup.epochs} epochs, one seed" if short else "one seed"
        if settings.get("images", setup.images) < setup.images / 2:
            return "smoke", f"{settings['images']:,} training images of {settings['classes']} classes, {because}"
        return "reduced", because

    tables = dynamic_tables.OF_SMALL_IMAGES if source == "cifar100" else dynamic_tables.OF_PHOTOGRAPHS
    title = f"calibrated exits and budgets, {data}, MSDNet {size}"
    return Experiment(title, source, configured(Options()), tables, judged, configured)


_EMNIST = _reduced("the published test part, cut in three; the training part is not used")

EXPERIMENTS: dict[str, Experiment] = {
    "movielens": _dropout("ratings, MovieLens 1M", "movielens-1m", partial(recommenders.run, recommenders.MOVIELENS)),
    "criteo": _dropout(
        "clicks, Criteo",
        "criteo-sample",
        partial(recommenders.run, recommenders.CRITEO),
        _reduced("80,000 of 45,840,617 rows"),
    ),
    "emnist": _dropout("classes, EMNIST ByClass", "emnist-byclass", letters.run, _EMNIST),
    "ensembles": Experiment(
        "disagreement of eight networks from one of them, MovieLens 1M",
        "movielens-1m",
        ensembles.run,
        ensembles.TABLES,
        _full,
    ),
    "exit-scores": Experiment(
        "which score stops best, dropout variation among them, EMNIST ByClass",
        "emnist-byclass",
        exits.run,
        exits.TABLES,
        _EMNIST,
    ),
    **{f"cifar100-msdnet-{size}": _msdnet("cifar100", "CIFAR-100", size) for size in ("small", "medium", "large")},
    **{f"imagenet-msdnet-{step}": _msdnet("imagenet", "ImageNet", step) for step in ("4", "6", "7")},
    "caltech256-msdnet-4": _msdnet("caltech256", "Caltech-256", "4"),
    "tiny-imagenet-lite0": Experiment(
        "exits attached to a frozen EfficientNet-Lite0, Tiny ImageNet",
        "tiny-imagenet",
        lite0.run,
        dynamic_tables.TABLES,
        _reduced("a trained network of another kind, frozen; 10,000 images of 200 classes"),
    ),
}


def find(name: str, options: Options | None = None) -> Experiment:
    """The experiment of a name, as it is asked for.

    Raises:
        ValueError: for another name, or options where there is nothing to choose.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"expected one of {', '.join(EXPERIMENTS)}, got {name!r}")
    experiment = EXPERIMENTS[name]
    if options is None or options == Options():
        return experiment
    if experiment.configured is None:
        raise ValueError(f"expected no options with {name}, whose settings are fixed, got {options}")
    return replace(experiment, run=experiment.configured(options))


def made(folder: Path, name: str, table: str) -> str:
    """A table of the results in a folder, and the commands that make them.

    Raises:
        ValueError: for an experiment or a table that there is not.
        FileNotFoundError: if the folder does not hold the results.
    """
    tables = find(name).tables
    if table not in tables:
        raise ValueError(f"expected one of the tables {', '.join(tables)} of {name}, got {table!r}")
    results = ledger.read(folder / f"{name}.json")
    runs = results["runs"].values()
    dates, machines, torches = (
        ", ".join(sorted({str(value) for value in values}))
        for values in (
            (run["date"] for run in runs),
            (run["machine"] for run in runs),
            (run["versions"]["torch"] for run in runs),
        )
    )
    commands = "; ".join(f"`{command}`" for command in ledger.commands(results))
    return f"{tables[table](results)}\n*{commands}; {dates}; torch {torches}; {machines}.*\n"

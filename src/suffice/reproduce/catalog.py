"""Every experiment by name: what it shows, what reduces it, how it is run and which tables it makes."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from suffice.reproduce import ledger
from suffice.reproduce.dropout import ensembles, exits, letters, recommenders
from suffice.reproduce.dropout import measurements as dropout_measurements
from suffice.reproduce.dropout import tables as dropout_tables
from suffice.reproduce.early_exit import lite0, measurements, msdnets, tables
from suffice.reproduce.early_exit.msdnets import Recipe, Setup
from suffice.reproduce.ledger import Results
from suffice.reproduce.markdown import MarkdownTable
from suffice.utils.progress import ProgressCallback

Run = Callable[[Path, ProgressCallback], Results]
State = tuple[str, str]
"""Of results, and why: "full", "reduced", "smoke" (only the command works), "partial" (runs lack) or "not run"."""


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
        keys: of the runs that the tables need.
        tables: from the results, Markdown.
        judged: from the results, their state beside the paper's setting.
        plan: what is trained if its weights are not there; empty where that takes minutes.
        configured: the same as it is asked for; None where there is nothing to choose.
    """

    title: str
    source: str
    run: Run
    keys: Collection[str]
    tables: Mapping[str, MarkdownTable]
    judged: Callable[[Results], State]
    plan: str = ""
    configured: "Callable[[Options], Experiment] | None" = None

    def state(self, path: Path) -> State:
        """Of the results in a file."""
        if not path.exists():
            return "not run", ""
        results = ledger.read(path)
        there = len(self.keys) - len(self.missing(results))
        return self.judged(results) if there == len(self.keys) else ("partial", f"{there} of {len(self.keys)} runs")

    def missing(self, results: Results) -> list[str]:
        """Keys of the runs that tables need and the results lack."""
        return [key for key in self.keys if key not in results["runs"]]


def _full(results: Results) -> State:
    del results
    return "full", ""


def _reduced(because: str) -> Callable[[Results], State]:
    return lambda results: ("reduced", because)


def _dropout(title: str, source: str, run: Run, judged: Callable[[Results], State] = _full) -> Experiment:
    return Experiment(
        f"dropout variation of {title}", source, run, dropout_measurements.keys(), dropout_tables.TABLES, judged
    )


def _msdnet(source: str, data: str, size: str, options: Options | None = None) -> Experiment:
    """Paper one's recipe on a data set."""
    asked = options or Options()
    precise, eager = asked.float32, asked.eager
    recipe = Recipe(source, size, asked.epochs, asked.seed, asked.validation, not precise, not eager)
    small = source == "cifar100"
    others = [row for other in measurements.others(asked.also).values() for row in other.choices]
    return Experiment(
        f"calibrated exits and budgets, {data}, MSDNet {size}",
        source,
        partial(msdnets.run, recipe, also=asked.also),
        [*measurements.KEYS, "corruptions" if small else "full run", *others],
        tables.OF_SMALL_IMAGES if small else tables.OF_PHOTOGRAPHS,
        partial(_judged, recipe.setup),
        f"{recipe.trained_epochs} epochs" + ("; --epochs takes fewer" if asked.epochs is None else ""),
        partial(_msdnet, source, data, size),
    )


def _judged(setup: Setup, results: Results) -> State:
    settings = results["settings"]
    epochs, because = settings["epochs"], "one seed"
    if epochs != setup.epochs:
        because = f"{epochs} {'of' if epochs < setup.epochs else 'in place of'} {setup.epochs} epochs, {because}"
    if settings.get("images", setup.images) < setup.images / 2:
        return "smoke", f"{settings['images']:,} training images of {settings['classes']} classes, {because}"
    return "reduced", because


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
        ensembles.KEYS,
        ensembles.TABLES,
        _full,
    ),
    "exit-scores": Experiment(
        "which score stops best, dropout variation among them, EMNIST ByClass",
        "emnist-byclass",
        exits.run,
        exits.KEYS,
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
        measurements.KEYS,
        tables.TABLES,
        _reduced("a trained network of another kind, frozen; 10,000 images of 200 classes"),
    ),
}


def find(name: str, options: Options | None = None) -> Experiment:
    """The experiment of a name, as it is asked for.

    Raises:
        ValueError: for another name, a loss that there is not, or options where there is nothing to choose.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"expected one of {', '.join(EXPERIMENTS)}, got {name!r}")
    experiment = EXPERIMENTS[name]
    if options is None or options == Options():
        return experiment
    if experiment.configured is None:
        chosen = (f"{key}={value}" for key, value in vars(options).items() if value != getattr(Options(), key))
        raise ValueError(f"expected no options with {name}, whose settings are fixed, got {', '.join(chosen)}")
    return experiment.configured(options)


def made(folder: Path, name: str, table: str) -> str:
    """A table of the results in a folder, and the commands that make them.

    Raises:
        ValueError: for an experiment or a table that there is not, or results that lack runs.
        FileNotFoundError: if the folder does not hold the results.
    """
    experiment = find(name)
    if table not in experiment.tables:
        raise ValueError(f"expected one of the tables {', '.join(experiment.tables)} of {name}, got {table!r}")
    results = ledger.read(folder / f"{name}.json")
    if missing := experiment.missing(results):
        raise ValueError(
            f"expected all runs of {name} in {folder}, found {len(missing)} missing, {missing[0]!r} the first; go on "
            f"with `{results['command']} --out {folder}`"
        )
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
    return f"{experiment.tables[table](results)}\n*{commands}; {dates}; torch {torches}; {machines}.*\n"

"""Every experiment by name: what it shows, what reduces it, how it is run and which tables it makes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from suffice.reproduce import cifar100, dropout_tables, dynamic_tables, ensembles, exits, ledger, letters, recommenders
from suffice.reproduce.cifar100 import PAPER_EPOCHS, Recipe
from suffice.reproduce.ledger import Results
from suffice.variation.comparison import Progress

Run = Callable[[Path, Progress], Results]
Table = Callable[[Results], str]


@dataclass(frozen=True)
class Options:
    """What may be asked for beside the name; only where a network is trained by paper one's recipe.

    Attributes:
        epochs: of training; None for the paper's.
        seed: of everything random.
        float32: train in float32, and not in bfloat16.
        eager: train without `torch.compile`.
        smoothed: train a second network with label smoothing.
    """

    epochs: int | None = None
    seed: int = 0
    float32: bool = False
    eager: bool = False
    smoothed: bool = False


@dataclass(frozen=True)
class Experiment:
    """A group of tables that one command makes.

    Attributes:
        title: one line.
        run: makes `out/NAME.json`, and tells what it is doing.
        tables: from the results, Markdown.
        reduced: from the results, what makes them less than the paper's setting; empty where nothing does.
        configured: for `Options`, another `run`; None where there is nothing to choose.
    """

    title: str
    run: Run
    tables: Mapping[str, Table]
    reduced: Callable[[Results], str]
    configured: Callable[[Options], Run] | None = None

    def state(self, path: Path) -> tuple[str, str]:
        """Whether it was "not run", or is "full" or "reduced" by the results in a file, and what reduced it."""
        if not path.exists():
            return "not run", ""
        because = self.reduced(ledger.read(path))
        return ("reduced", because) if because else ("full", "")


def _msdnet(size: str, options: Options) -> Run:
    recipe = Recipe(size, seed=options.seed, bfloat16=not options.float32, compiled=not options.eager)
    if options.epochs is not None:
        recipe = replace(recipe, epochs=options.epochs)
    return partial(cifar100.run, recipe, smoothed=options.smoothed)


def _epochs(results: Results) -> str:
    epochs = results["settings"]["epochs"]
    return "" if epochs == PAPER_EPOCHS else f"{epochs} of {PAPER_EPOCHS} epochs, one seed"


_EMNIST = "the published test part, cut in three; the training part is not used"

EXPERIMENTS: dict[str, Experiment] = {
    "movielens": Experiment(
        "dropout variation of ratings, MovieLens 1M",
        partial(recommenders.run, recommenders.MOVIELENS),
        dropout_tables.TABLES,
        lambda results: "",
    ),
    "criteo": Experiment(
        "dropout variation of clicks, Criteo",
        partial(recommenders.run, recommenders.CRITEO),
        dropout_tables.TABLES,
        lambda results: "80,000 of 45,840,617 rows",
    ),
    "emnist": Experiment(
        "dropout variation of classes, EMNIST ByClass",
        letters.run,
        dropout_tables.TABLES,
        lambda results: _EMNIST,
    ),
    "ensembles": Experiment(
        "disagreement of eight networks from one of them, MovieLens 1M",
        ensembles.run,
        ensembles.TABLES,
        lambda results: "",
    ),
    "exit-scores": Experiment(
        "which score stops best, dropout variation among them, EMNIST ByClass",
        exits.run,
        exits.TABLES,
        lambda results: _EMNIST,
    ),
    **{
        f"cifar100-msdnet-{size}": Experiment(
            f"calibrated exits and budgets, CIFAR-100, MSDNet {size}",
            _msdnet(size, Options()),
            dynamic_tables.TABLES,
            _epochs,
            partial(_msdnet, size),
        )
        for size in ("small", "medium", "large")
    },
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
    """A table of the results in a folder, and the command that makes it.

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
    return f"{tables[table](results)}\n*`{results['command']}`; {dates}; torch {torches}; {machines}.*\n"

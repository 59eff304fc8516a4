"""Every experiment by name: what it shows, what reduces it, how it is run and which tables it makes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from suffice.reproduce import cifar100, dropout_tables, dynamic_tables, ensembles, exits, ledger, letters, recommenders
from suffice.reproduce.cifar100 import PAPER_EPOCHS, Recipe
from suffice.reproduce.ledger import Results
from suffice.training import Progress as Step
from suffice.variation.comparison import Progress

Table = Callable[[Results], str]


@dataclass(frozen=True)
class Options:
    """What may be asked for beside the name; only where a network is trained by paper one's recipe.

    Attributes:
        epochs: of training; None for the paper's.
        seed: of everything random.
        float32: train in float32, and not in bfloat16.
        eager: train without `torch.compile`.
    """

    epochs: int | None = None
    seed: int = 0
    float32: bool = False
    eager: bool = False


@dataclass(frozen=True)
class Experiment:
    """A group of tables that one command makes.

    Attributes:
        title: one line.
        run: makes `out/NAME.json`.
        tables: from the results, Markdown.
        reduced: from the results, what makes them less than the paper's setting; empty where nothing does.
        takes: whether it takes `Options`.
    """

    title: str
    run: Callable[[Path, Options, Progress], Results]
    tables: Mapping[str, Table]
    reduced: Callable[[Results], str]
    takes: bool = False

    def state(self, path: Path) -> tuple[str, str]:
        """Whether it was "not run", or is "full" or "reduced" by the results in a file, and what reduced it."""
        if not path.exists():
            return "not run", ""
        because = self.reduced(ledger.read(path))
        return ("reduced", because) if because else ("full", "")


def _tower(recipe: recommenders.Recipe, out: Path, _options: Options, progress: Progress) -> Results:
    return recommenders.run(recipe, out, progress)


def _letters(out: Path, _options: Options, progress: Progress) -> Results:
    return letters.run(out, progress)


def _ensembles(out: Path, _options: Options, progress: Progress) -> Results:
    return ensembles.run(out, progress)


def _exits(out: Path, _options: Options, progress: Progress) -> Results:
    return exits.run(out, progress)


def _msdnet(size: str, out: Path, options: Options, progress: Progress) -> Results:
    recipe = Recipe(size, seed=options.seed, bfloat16=not options.float32, compiled=not options.eager)
    if options.epochs is not None:
        recipe = replace(recipe, epochs=options.epochs)

    def shown(step: Step) -> None:
        progress("epochs of training", step.epoch - 1, step.epochs)

    return cifar100.run(recipe, out, shown)


def _epochs(results: Results) -> str:
    epochs = results["settings"]["epochs"]
    return "" if epochs == PAPER_EPOCHS else f"{epochs} of {PAPER_EPOCHS} epochs, one seed"


_EMNIST = "the published test part, cut in three; the training part is not used"

EXPERIMENTS: dict[str, Experiment] = {
    "movielens": Experiment(
        "dropout variation of ratings, MovieLens 1M",
        partial(_tower, recommenders.MOVIELENS),
        dropout_tables.TABLES,
        lambda results: "",
    ),
    "criteo": Experiment(
        "dropout variation of clicks, Criteo",
        partial(_tower, recommenders.CRITEO),
        dropout_tables.TABLES,
        lambda results: "80,000 of 45,840,617 rows",
    ),
    "emnist": Experiment(
        "dropout variation of classes, EMNIST ByClass",
        _letters,
        dropout_tables.TABLES,
        lambda results: _EMNIST,
    ),
    "ensembles": Experiment(
        "disagreement of eight networks from one of them, MovieLens 1M",
        _ensembles,
        ensembles.TABLES,
        lambda results: "",
    ),
    "exit-scores": Experiment(
        "which score stops best, dropout variation among them, EMNIST ByClass",
        _exits,
        exits.TABLES,
        lambda results: _EMNIST,
    ),
    **{
        f"cifar100-msdnet-{size}": Experiment(
            f"calibrated exits and budgets, CIFAR-100, MSDNet {size}",
            partial(_msdnet, size),
            dynamic_tables.TABLES,
            _epochs,
            takes=True,
        )
        for size in ("small", "medium", "large")
    },
}


def find(name: str) -> Experiment:
    """The experiment of a name.

    Raises:
        ValueError: for another name.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"expected one of {', '.join(EXPERIMENTS)}, got {name!r}")
    return EXPERIMENTS[name]


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

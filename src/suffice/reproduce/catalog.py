"""All experiments by name: title, data set, how to run them, their tables, and how complete their results are."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from suffice.reproduce import ledger
from suffice.reproduce.dropout import ensembles, exits, letters, recommenders
from suffice.reproduce.dropout import measurements as dropout_measurements
from suffice.reproduce.dropout import tables as dropout_tables
from suffice.reproduce.early_exit import (
    defaults,
    lite0,
    measurements,
    msdnets,
    overconfidence,
    overconfidence_tables,
    overconfident_networks,
    tables,
)
from suffice.reproduce.early_exit.msdnet_training import MSDNetExperiment, PaperConfig
from suffice.reproduce.early_exit.text import minilm
from suffice.reproduce.early_exit.text import tables as text_tables
from suffice.reproduce.ledger import Results
from suffice.reproduce.markdown import MarkdownTable
from suffice.reproduce.posterior import worth
from suffice.utils.progress import ProgressCallback

Run = Callable[[Path, ProgressCallback], Results]
State = tuple[str, str]
"""State of the results and its reason.

"full", "reduced" (smaller than the paper's setting), "smoke" (only shows that the command works), "partial" (runs are
missing) or "not run".
"""


@dataclass(frozen=True)
class Options:
    """Options of an experiment that trains an MSDNet as in paper one; other experiments have none.

    Attributes:
        epochs: Number of training epochs; None for the paper's.
        seed: Seed of all random numbers.
        validation: Number of images held out of the training part; None for the data set's default.
        float32: Train in float32 instead of bfloat16.
        eager: Train without `torch.compile`.
        also: Names in `measurements.ALTERNATIVE_LOSSES`; one more network is trained with each.
    """

    epochs: int | None = None
    seed: int = 0
    validation: int | None = None
    float32: bool = False
    eager: bool = False
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """Group of tables that one command produces.

    Attributes:
        title: Description in one line.
        source: Name of the data set in the store.
        run: Function that writes `out/NAME.json` and reports its progress.
        keys: Keys of the runs that the tables need.
        tables: Functions from the results to Markdown, by name of the table.
        assess: Function from complete results to their state, compared with the paper's setting.
        plan: Description of a long training that runs if its weights are missing; empty if there is none.
        configure: Function from options to the experiment with these options; None if it has no options.
    """

    title: str
    source: str
    run: Run
    keys: Collection[str]
    tables: Mapping[str, MarkdownTable]
    assess: Callable[[Results], State]
    plan: str = ""
    configure: "Callable[[Options], Experiment] | None" = None

    def state(self, path: Path) -> State:
        """Return the state of the results in a file, which may not exist."""
        if not path.exists():
            return "not run", ""
        results = ledger.read(path)
        if missing := self.missing(results):
            return "partial", f"{len(self.keys) - len(missing)} of {len(self.keys)} runs"
        return self.assess(results)

    def missing(self, results: Results) -> list[str]:
        """Return the keys of the runs that the tables need and the results lack."""
        return [key for key in self.keys if key not in results["runs"]]


def _full(results: Results) -> State:
    del results
    return "full", ""


def _reduced(reason: str) -> Callable[[Results], State]:
    return lambda results: ("reduced", reason)


def _dropout(title: str, source: str, run: Run, assess: Callable[[Results], State] = _full) -> Experiment:
    return Experiment(
        f"dropout variation of {title}", source, run, dropout_measurements.keys(), dropout_tables.TABLES, assess
    )


def _msdnet(source: str, data: str, size: str, options: Options | None = None) -> Experiment:
    """Return the experiment that trains an MSDNet on a data set as in paper one."""
    options = options or Options()
    config = MSDNetExperiment(
        source, size, options.epochs, options.seed, options.validation, not options.float32, not options.eager
    )
    small = source == "cifar100"
    losses = measurements.alternative_losses(options.also).values()
    return Experiment(
        f"calibrated exits and budgets, {data}, MSDNet {size}",
        source,
        partial(msdnets.run, config, also=options.also),
        [*measurements.KEYS, "corruptions" if small else "full run", *(row for loss in losses for row in loss.choices)],
        tables.SMALL_IMAGE_TABLES if small else tables.PHOTOGRAPH_TABLES,
        partial(_assess_msdnet, config.paper),
        f"{config.trained_epochs} epochs" + ("; --epochs sets fewer" if options.epochs is None else ""),
        partial(_msdnet, source, data, size),
    )


def _assess_msdnet(paper: PaperConfig, results: Results) -> State:
    settings = results["settings"]
    epochs, reason = settings["epochs"], "one seed"
    if epochs != paper.epochs:
        reason = f"{epochs} {'of' if epochs < paper.epochs else 'instead of'} {paper.epochs} epochs, {reason}"
    if settings.get("images", paper.images) < paper.images / 2:
        return "smoke", f"{settings['images']:,} training images of {settings['classes']} classes, {reason}"
    return "reduced", reason


def _assess_overconfidence(results: Results) -> State:
    reason = f"{overconfident_networks.EPOCHS} epochs, at most {len(overconfident_networks.SEEDS)} seeds"
    missing = overconfidence.unmeasured(results)
    return "reduced", f"{reason}; not run: {'; '.join(missing)}" if missing else reason


def _assess_text(results: Results) -> State:
    seeds, planned = len(text_tables.complete(results)), len(minilm.SEEDS)
    return ("full", "") if seeds == planned else ("reduced", f"{seeds} of {planned} seeds")


_EMNIST = _reduced("the published test part, split in three; the training part is not used")

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
        "disagreement of eight networks, estimated from one of them, MovieLens 1M",
        "movielens-1m",
        ensembles.run,
        ensembles.KEYS,
        ensembles.TABLES,
        _full,
    ),
    "exit-scores": Experiment(
        "exit scores compared, the dropout variation among them, EMNIST ByClass",
        "emnist-byclass",
        exits.run,
        exits.KEYS,
        exits.TABLES,
        _EMNIST,
    ),
    "overconfidence": Experiment(
        "parts of the calibration on networks of different overconfidence, CIFAR-100",
        overconfident_networks.SOURCE,
        overconfidence.run,
        overconfidence.KEYS,
        overconfidence_tables.TABLES,
        _assess_overconfidence,
        "three networks on 10,000 images, one more with label smoothing, and one on 45,000 images",
    ),
    "default": Experiment(
        "the default compared with every row, on networks of many kinds",
        overconfident_networks.SOURCE,
        defaults.run,
        defaults.KEYS,
        defaults.TABLES,
        _reduced("one seed; networks that are trained in minutes"),
    ),
    "posterior": Experiment(
        "uses with and without a posterior: digits, tables, and features of CIFAR-100",
        overconfident_networks.SOURCE,
        worth.run,
        worth.KEYS,
        worth.TABLES,
        _full,
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
        _reduced("another architecture, frozen; 10,000 images of 200 classes"),
    ),
    "clinc150-minilm": Experiment(
        "exits attached to MiniLM and fine-tuned, intents of CLINC150",
        minilm.SOURCE,
        minilm.run,
        text_tables.KEYS,
        text_tables.TABLES,
        _assess_text,
        f"12 networks of up to {minilm.RECIPES['lstm'].epochs} epochs, several hours on one core",
    ),
}


def find(name: str, options: Options | None = None) -> Experiment:
    """Return the experiment with a name, configured by the options.

    Raises:
        ValueError: If the name or a loss is unknown, or if options are passed to an experiment that has none.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"expected one of {', '.join(EXPERIMENTS)}, got {name!r}")
    experiment = EXPERIMENTS[name]
    if options is None or options == Options():
        return experiment
    if experiment.configure is None:
        changed = (f"{key}={value}" for key, value in vars(options).items() if value != getattr(Options(), key))
        raise ValueError(f"expected no options with {name}, which has fixed settings, got {', '.join(changed)}")
    return experiment.configure(options)


def render_table(folder: Path, name: str, table: str) -> str:
    """Return a table in Markdown from the results in a folder, followed by the commands that produced them.

    Raises:
        ValueError: If the experiment or the table is unknown, or if the results lack runs.
        FileNotFoundError: If the folder does not contain the results.
    """
    experiment = find(name)
    if table not in experiment.tables:
        raise ValueError(f"expected one of the tables {', '.join(experiment.tables)} of {name}, got {table!r}")
    results = ledger.read(folder / f"{name}.json")
    if missing := experiment.missing(results):
        raise ValueError(
            f"expected all runs of {name} in {folder}, found {len(missing)} missing, the first of them "
            f"{missing[0]!r}; resume with `{results['command']} --out {folder}`"
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

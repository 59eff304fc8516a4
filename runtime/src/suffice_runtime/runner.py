"""Run an exported bundle: NumPy arrays in, answers out."""

import operator
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from suffice_runtime.answer import Answer
from suffice_runtime.bundle import manifest
from suffice_runtime.bundle.manifest import Manifest
from suffice_runtime.bundle.sessions import Loader
from suffice_runtime.bundle.tokenizer import Array, Tokenizer, is_texts
from suffice_runtime.estimate import Estimate, warning
from suffice_runtime.policy import Policy
from suffice_runtime.prediction import AnyPrediction
from suffice_runtime.running import stream, walk
from suffice_runtime.running.network import Network
from suffice_runtime.running.stream import Served
from suffice_runtime.running.walk import Finished


class Runner:
    """Network of a bundle, which `suffice.export` wrote, with the policy to run it under.

    All methods may be called from several threads at once. Answers are those of `suffice.run` up to rounding in the
    kernels: probabilities agree to 1e-5, and exits wherever the score is further than 1e-5 from the threshold.

    Args:
        folder: Folder of the bundle.
        threads: Number of threads on which an operator runs.
        providers: Names of ONNX Runtime's execution providers, the preferred one first.
        check: Whether to compare manifest and graphs with their checksums.

    Attributes:
        manifest: Description of the bundle.

    Raises:
        FileNotFoundError: If the folder is no bundle, or a graph is missing.
        ValueError: If the bundle is of a newer format or damaged, a graph cannot be loaded or differs from the
            manifest, or a provider is missing.

    Example:
        >>> import numpy as np
        >>> from suffice_runtime import Runner
        >>> runner = Runner("bundle")  # doctest: +SKIP
        >>> answer = runner.run(np.random.rand(200, 1, 8, 8).astype(np.float32))  # doctest: +SKIP
        >>> answer.probs.shape, answer.exit.shape  # doctest: +SKIP
        ((200, 10), (200,))
    """

    manifest: Manifest

    def __init__(
        self,
        folder: str | os.PathLike[str],
        threads: int = 1,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        check: bool = True,
    ) -> None:
        self.manifest = manifest.read(Path(folder), check)
        loader = Loader(Path(folder), self.manifest, _whole("threads", threads), providers, check)
        self._network = Network(self.manifest, loader.stages(), loader.estimator())
        self._folder, self._check = Path(folder), check

    def __repr__(self) -> str:
        """Describe the bundle in one line."""
        kind, shapes = self.manifest.kind, "; ".join(map(str, self.manifest.inputs))
        what = "estimator" if kind is None else f"{kind.kind}, {len(self.manifest.stages)} exits"
        return f"Runner({what}, {shapes})"

    @property
    def policy(self) -> Policy:
        """Policy of the bundle.

        Raises:
            ValueError: If the bundle has none.
        """
        self._check_exits()
        if self.manifest.policy is None:
            raise ValueError(
                "expected a bundle with a policy, got one without; use predict() or anytime(), or export with policy=…"
            )
        return self.manifest.policy

    def encode(self, texts: Sequence[str]) -> dict[str, Array]:
        """Return the arrays that the bundle's tokenizer makes of texts, padded to the longest.

        Args:
            texts: Texts, N in number.

        Raises:
            ImportError: If the package tokenizers is not installed.
            TypeError: If a text is no string.
            ValueError: If the bundle has no tokenizer, or a text has no tokens, or more than the network takes.
        """
        return self._tokenizer.encode(texts)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        """Tokenizer of the bundle, loaded at the first text."""
        described, most = self.manifest.tokenizer, self.manifest.lengths[1]
        if described is None:
            raise ValueError("expected arrays for a bundle without a tokenizer, got texts; export it with tokenizer=…")
        return Tokenizer(self._folder, described, self.manifest.inputs, most, self._check)

    def _arrays(self, x: Any) -> Any:
        """Return inputs as arrays, which texts become by the tokenizer."""
        return self.encode(list(x)) if is_texts(x) else x

    def run(self, x: Any, policy: Policy | None = None) -> Answer:
        """Run a batch under a policy; each example is computed up to the exit where it stops, and no further.

        Args:
            x: Array of N examples, or a mapping with one array for each input, batch first; for a bundle with a
                tokenizer also a list of texts.
            policy: Policy to use in place of that of the bundle, such as that of a `drift.Tracker`.

        Returns:
            Answer of the N examples, in their order.

        Raises:
            TypeError: If an input is no array, or of another type than the graphs take.
            ValueError: If the bundle has no policy, names or shapes of inputs differ, or inputs, scores or the
                predictions that are answered are not finite; the message names the position in x.
        """
        policy = self._policy(policy)
        rows, tokens = self._network.enter(self._arrays(x), coin=policy.needs_coin)
        if not len(rows):
            nothing = Finished(rows.positions, 0, self._network.no_prediction(), (), rows.coin)
            return self._network.answer([nothing], tokens, policy)
        self._network.check_finite(rows)
        finished, in_flight = list[Finished](), rows
        for k, graph in enumerate(self._network.graphs):
            stopped, behind = walk.advance(graph, policy, k, in_flight)
            if stopped is not None:
                finished.append(stopped)
            if behind is None:
                break
            in_flight = behind
        return self._network.answer(finished, tokens, policy)

    def predict(self, x: Any) -> list[AnyPrediction]:
        """Return the prediction of every exit for a batch, with none stopping early.

        Args:
            x: Inputs as for `run`.

        Raises:
            TypeError: If an input is no array, or of another type than the graphs take.
            ValueError: If names or shapes of inputs differ, or inputs or predictions are not finite.
        """
        return list(self.anytime(x))

    def anytime(self, x: Any) -> Iterator[AnyPrediction]:
        """Yield the prediction of each exit as soon as it is computed; later graphs run only if requested.

        Args:
            x: Inputs as for `run`.

        Raises:
            TypeError: If an input is no array, or of another type than the graphs take.
            ValueError: If names or shapes of inputs differ, or inputs are not finite; while iterating, if predictions
                are not.
        """
        self._check_exits()
        rows, _ = self._network.enter(self._arrays(x), coin=False)
        self._network.check_finite(rows)
        return self._predictions(rows)

    def run_stream(
        self, batches: Iterable[Any], *, size: int = 64, delay: int = 8, policy: Policy | None = None
    ) -> Iterator[Served]:
        """Run a stream of batches under a policy, and return their answers in order.

        A graph runs on `size` examples as soon as so many of one shape wait before it. Examples wait for those of later
        batches, but a batch is finished before more than `delay` later batches are read. If a graph fails, or an input
        is not finite, the example that causes it becomes a `StageError` of its batch, and all others are answered. A
        batch of wrong names, types or shapes raises its error after the batches before it are returned.

        Args:
            batches: Inputs as for `run`, in batches of any size; each batch of one shape, and different ones of any.
            size: Number of examples on which a graph runs.
            delay: Number of later batches that a batch may wait for; 0 runs each batch by itself.
            policy: Policy to use in place of that of the bundle.

        Returns:
            An iterator of one `Served` for each batch, in order.

        Raises:
            TypeError: If batches are a single batch, or size and delay no whole numbers.
            ValueError: If size or delay is out of range, or the bundle has no policy.
        """
        if isinstance(batches, (np.ndarray, Mapping)) or not isinstance(batches, Iterable):
            raise TypeError(
                f"expected an iterable of batches, got {type(batches).__name__}; pass one batch as [x], or call run"
            )
        size, delay = _whole("size", size), _whole("delay", delay, least=0)
        return stream.serve(self._network, self._policy(policy), map(self._arrays, batches), size, delay)

    def estimate(self, x: Any) -> Estimate:
        """Run the estimator's model once, and estimate the variation of its output.

        A warning is issued if inputs are far outside those of fitting, or more are outside than chance allows, as by a
        call of `suffice.VariationEstimator`.

        Args:
            x: Inputs as for `run`.

        Raises:
            TypeError: If an input is no array, or of another type than the graph takes.
            ValueError: If the bundle has no estimator, names or shapes of inputs differ, or inputs or outputs are not
                finite.
        """
        found = self._network.estimate(self._arrays(x))
        if message := warning([found.distance]):
            warnings.warn(message, stacklevel=2)
        return found

    def _check_exits(self) -> None:
        """Raise a ValueError for a bundle of an estimator alone."""
        if self.manifest.kind is None:
            raise ValueError(
                "expected a bundle of a calibrated network, got one of an estimator alone; use estimate(), or export "
                "the calibrated network with estimator=…"
            )

    def _policy(self, policy: Policy | None) -> Policy:
        """Return the policy to use."""
        if policy is None:
            return self.policy
        if not isinstance(policy, Policy):
            raise TypeError(f"expected a policy of suffice_runtime, got {type(policy).__name__}")
        policy.check_replaces(self.policy)
        return policy

    def _predictions(self, rows: walk.InFlight) -> Iterator[AnyPrediction]:
        """Yield the prediction of each exit for all rows."""
        carried = rows.carried
        for k, graph in enumerate(self._network.graphs):
            if not len(rows):
                yield self._network.no_prediction()
                continue
            result = graph(carried)
            walk.check_sound(result.prediction, k, rows.positions)
            yield result.prediction
            carried = result.carried


def _whole(name: str, value: Any, least: int = 1) -> int:
    """Return a whole number of at least `least`."""
    try:
        count = operator.index(value)
    except TypeError:
        count = None
    if count is None or isinstance(value, bool):
        raise TypeError(f"expected {name} as a whole number, got {value!r}")
    if count < least:
        raise ValueError(f"expected {name} of at least {least}, got {count}")
    return count

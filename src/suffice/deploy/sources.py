"""Sources of a bundle: a calibrated network with its policy, a variation estimator, or both."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from suffice.attach.tokens.masks import TokenMask
from suffice.budget.policy import Policy
from suffice.budget.walk import check_calibrated
from suffice.calibration.calibrated import Calibrated
from suffice.deploy import checks
from suffice.deploy.graphs.step import KINDS
from suffice.network import State
from suffice.storage.fingerprint import fingerprints
from suffice.utils.text import brief
from suffice.variation.estimator import VariationEstimator
from suffice.variation.teachers.spreads import output_matrix


@dataclass(frozen=True)
class Sources:
    """Calibrated network with its policy, variation estimator, or both.

    Attributes:
        calibrated: Calibrated network; None for an estimator alone.
        policy: Policy of the calibrated network, or None.
        estimator: Estimator of the same network, of the model that its exits were attached to, or None.
        policies: Policies that may be used in place of `policy`.
    """

    calibrated: Calibrated | None
    policy: Policy | None
    estimator: VariationEstimator | None
    policies: tuple[Policy, ...] = ()

    @classmethod
    def of(cls, fitted: object, policy: object, estimator: object, policies: object = ()) -> "Sources":
        """Return the sources in the arguments of `export`.

        Raises:
            TypeError: For arguments of other types, or an estimator with a policy or another estimator.
        """
        if policy is not None and not isinstance(policy, Policy):
            raise TypeError(f"expected a policy or None, got {type(policy).__name__}; suffice.allocate makes one")
        others = _policies(policies)
        if others and policy is None:
            raise TypeError("expected a policy with policies, got None; pass the one that is used first, policy=…")
        if estimator is not None and not isinstance(estimator, VariationEstimator):
            raise TypeError(
                f"expected an estimator or None, got {type(estimator).__name__}; suffice.fit_variation makes one"
            )
        if not isinstance(fitted, VariationEstimator):
            check_calibrated(fitted)
            assert isinstance(fitted, Calibrated)
            return cls(fitted, policy, estimator, others)
        if policy is not None or estimator is not None:
            raise TypeError(
                f"expected an estimator alone, got also {'a policy' if estimator is None else 'another estimator'}; "
                "pass the calibrated network first, suffice.export(calibrated, folder, estimator=…)"
            )
        return cls(None, None, fitted)

    @property
    def model(self) -> nn.Module:
        """Network whose inputs are those of the bundle."""
        if self.calibrated is not None:
            return self.calibrated.network
        assert self.estimator is not None
        return self.estimator.model

    @property
    def all_policies(self) -> tuple[Policy, ...]:
        """All policies, the one that is used first in front."""
        return () if self.policy is None else (self.policy, *self.policies)

    @property
    def kind(self) -> str:
        """Kind of the predictions, or "estimator" for an estimator alone."""
        return "estimator" if self.calibrated is None else KINDS[self.calibrated.likelihood.name]

    @property
    def likelihood(self) -> str:
        """Name of the likelihood."""
        if self.calibrated is not None:
            return self.calibrated.likelihood.name
        assert self.estimator is not None
        return self.estimator.reader.likelihood

    @property
    def network_hash(self) -> str:
        """`fingerprint` of `model`."""
        if self.calibrated is not None:
            return self.calibrated.network_hash
        assert self.estimator is not None
        return self.estimator.network_hash

    @property
    def mask(self) -> TokenMask | None:
        """Mask of the tokens that count in an estimator alone, as it was found at its fit."""
        return self.estimator.reader.mask if self.calibrated is None and self.estimator is not None else None

    def example_batch(self, example: object) -> State:
        """Return an example as the network and the model of the estimator take it.

        Raises:
            TypeError: If it holds no tensor.
            ValueError: If it has no rows, or one of them does not take it.
        """
        taken = list[State]()
        if self.calibrated is not None:
            run, model = self.calibrated, self.calibrated.network
            taken.append(checks.example_batch("the calibrated network", model, run, example))
        if self.estimator is not None:
            estimator = self.estimator
            taken.append(checks.example_batch("the estimator", estimator.model, estimator.estimate, example))
        return taken[0]

    def outputs(self, x: State) -> int:
        """Return the number of classes, labels or means for a batch of inputs."""
        if self.calibrated is not None:
            return checks.num_outputs(self.calibrated)
        assert self.estimator is not None
        return output_matrix(self.estimator.estimate(x).output, self.estimator.reader.likelihood).shape[1]

    def check(self) -> None:
        """Check all that needs no example.

        Raises:
            TypeError: For a compiled or scripted module, or weights that are not float32.
            ValueError: For weights that have changed or are too large, a policy or an estimator of another network, a
                score that is a function of the user, or an estimator that needs a gradient.
        """
        if self.calibrated is not None:
            if self.policy is not None:
                for policy in self.all_policies:
                    policy.check_made_for(self.calibrated)
                    _check_same_score(policy, self.policy)
            checks.network(self.calibrated.network)
            self.calibrated.check_weights()
        if self.estimator is not None:
            _check_estimator(self.estimator)
            if self.calibrated is not None and self.calibrated.network_hash != self.estimator.network_hash:
                _check_same_weights(self.estimator.model, self.calibrated.network)


def _policies(policies: object) -> tuple[Policy, ...]:
    """Return policies as a tuple.

    Raises:
        TypeError: For anything but an iterable of policies.
    """
    if isinstance(policies, Iterable):
        found = tuple(policies)
        others = [each for each in found if not isinstance(each, Policy)]
        if not others:
            return found
        policies = others[0]
    raise TypeError(f"expected policies as a list of policies, got {type(policies).__name__}; pass [policy, …]")


def _check_same_score(policy: Policy, first: Policy) -> None:
    """Raise a ValueError unless two policies use one score, which the graphs compute."""
    name, other = checks.score_name(first.score), checks.score_name(policy.score)
    if other != name or (name == "variation" and policy.score is not first.score):
        raise ValueError(
            f"expected policies of one score, {name!r}, which the graphs compute, got one of "
            f"{other if other != name else 'another fit'!r}; allocate all of them with score=policy.score"
        )


def _check_estimator(estimator: VariationEstimator) -> None:
    if estimator.reader.delta is not None:
        raise ValueError(
            "expected an estimator that needs no gradient, got one with delta=True, whose gradient a graph does not "
            "compute; fit it with delta=False, and layers=['<margins>', …] for the same in closed form"
        )
    checks.modules(estimator.model)
    checks.size("the model of the estimator", [estimator.model], "export without the estimator")
    estimator.check_weights()


def _check_same_weights(model: nn.Module, network: nn.Module) -> None:
    """Raise a ValueError unless each weight of a model is also one of a network."""
    known = set(fingerprints(network).values())
    missing = [name for name, weight in fingerprints(model).items() if weight not in known]
    if missing:
        raise ValueError(
            "expected an estimator of the calibrated network, or of the model that its exits were attached to, got one "
            f"of a model with other weights at {brief(missing[0])!r}; fit it for this network, or export it alone"
        )

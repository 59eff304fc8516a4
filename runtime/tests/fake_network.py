"""A network in NumPy for tests of the scheduler, and a server with a fake clock.

An example is a row [v, s_0, s_1]: at exit k it is predicted as the mean v + 10 k, its score is s_k, and the graph
raises an error for v = FAILS, whoever runs with it. A score may be NaN.
"""

import heapq
from dataclasses import replace

import numpy as np

from suffice_runtime.bundle.costs import Costs
from suffice_runtime.bundle.graphs import GraphFile, Tensor
from suffice_runtime.bundle.manifest import Manifest
from suffice_runtime.bundle.sessions import Result
from suffice_runtime.policy import Policy
from suffice_runtime.prediction import Regression
from suffice_runtime.running.network import Network
from suffice_runtime.scheduling.requests import RefusedError

EXITS = 3
FAILS = 666.0

POLICY = Policy(np.array([0.5, 0.5]), "confidence", 2.0, 2.0, np.array([0.4, 0.3, 0.3]))
EVERYTHING = replace(POLICY, thresholds=np.array([-np.inf, -np.inf]))
NOTHING = replace(POLICY, thresholds=np.array([np.inf, np.inf]))


class Stage:
    def __init__(self, k):
        self.k = k

    def __call__(self, arrays):
        (x,) = arrays
        if (x[:, 0] == FAILS).any():
            raise ArithmeticError("a graph that fails for this example")
        mean = x[:, :1] + 10 * self.k
        prediction = Regression(mean, np.ones_like(mean), np.ones_like(mean))
        last = self.k == EXITS - 1
        return Result(prediction, None if last else x[:, 1 + self.k].astype(np.float64), [] if last else [x])


def network(policy=POLICY, policies=()):
    tensor = Tensor("x", np.dtype("float32"), ("N", EXITS))
    outputs = tuple(Tensor(name, np.dtype("float32"), ("N", 1)) for name in Regression.names())
    stages = tuple(GraphFile(f"stage-{k}.onnx", "", 0, (tensor,), outputs) for k in range(EXITS))
    manifest = Manifest(
        kind=Regression,
        likelihood="regression",
        ensemble="false",
        inputs=(tensor,),
        stages=stages,
        costs=Costs((1, 2, 3)),
        policy=policy,
        policies=() if policy is None else (policy, *policies),
        estimator=None,
        padding=None,
        tokenizer=None,
        lengths=(1, None),
        class_names=None,
        preprocessing=None,
        opset=20,
        library="",
        hashes={},
        versions={},
    )
    return Network(manifest, [Stage(k) for k in range(EXITS)])


def rows(n, seed=0, shares=(0.5, 0.25, 0.25)):
    """Return examples (n, 3) that stop at each exit of POLICY with some probabilities."""
    generator = np.random.default_rng(seed)
    exits = generator.choice(EXITS, size=n, p=shares)
    return stopping_at(exits, generator.integers(0, 9, size=n))


def stopping_at(exits, values=0):
    """Return examples that POLICY stops at some exits."""
    exits = np.asarray(exits)
    scores = [(exits == k).astype(np.float32) for k in range(EXITS - 1)]
    return np.stack([np.broadcast_to(values, exits.shape), *scores], axis=1).astype(np.float32)


def affine(fixed, each):
    """Return the time of a batch, the same at every stage: fixed + each · rows, in seconds."""
    return lambda batch: fixed + each * batch.size


class Server:
    """Executor with a fake clock and one worker, which takes `seconds(batch)` for a batch."""

    def __init__(self, scheduler, network, seconds):
        self.scheduler, self.network, self.seconds = scheduler, network, seconds
        self.batches, self.answered, self.refused = [], {}, []
        self.now = 0.0

    def serve(self, arrivals, until=np.inf):
        """Run from the times of arrivals, (seconds, inputs, parameters) each, until nothing is left to do."""
        arrivals = [(time, i, x, terms) for i, (time, x, terms) in enumerate(arrivals)]
        heapq.heapify(arrivals)
        running, tickets = None, {}
        while True:
            if running is None and (batch := self.scheduler.next(self.now)) is not None:
                self.batches.append((self.now, batch))
                running = (self.now + self.seconds(batch), batch)
            for outcome in self.scheduler.collect(self.now):
                assert outcome.ticket not in self.answered
                self.answered[outcome.ticket] = (self.now, outcome)
            upcoming = [arrivals[0][0] if arrivals else np.inf, running[0] if running else np.inf]
            upcoming.append(self.scheduler.wake_at(self.now))
            if min(upcoming) > until or min(upcoming) == np.inf:
                return tickets
            assert min(upcoming) > self.now or upcoming[2] > self.now
            self.now = max(self.now, min(upcoming))
            if running is not None and running[0] <= self.now:
                self._end(running[1])
                running = None
            while arrivals and arrivals[0][0] <= self.now:
                _, i, x, terms = heapq.heappop(arrivals)
                try:
                    tickets[i] = self.scheduler.submit(x, self.now, **terms)
                except RefusedError as error:
                    self.refused.append((self.now, error))

    def _end(self, batch):
        try:
            result = self.network.graphs[batch.stage](batch.padded())
        except ArithmeticError as error:
            self.scheduler.failed(batch, error, self.now)
        else:
            self.scheduler.done(batch, result, self.now)

    def sizes(self, stage):
        return [len(batch) for _, batch in self.batches if batch.stage == stage and not batch.audit]

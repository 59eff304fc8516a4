"""Rule that decides how many examples run together, which stage runs next, and when a stage waits for more examples.

Let c(n) be the measured time of a stage for n examples of one shape, and B the sizes of batches.

**Size.** If n examples wait, m = argmin c(m) / m of them run, over m = n and the sizes below n; the larger one of
equals. The best size of the stage is b = argmin c(b) / b over B.

**Waiting.** Suppose that j more examples are expected within t seconds. If the n run now, and the j others together as
soon as they are there and the machine is free, the times until the answers sum to n c(n) + j (max(t, c(n)) + c(j)). If
the n wait for the j, they sum to (n + j) (t + c(n + j)). The saving per example is

    g(j) = (n c(n) + j (max(t, c(n)) + c(j))) / (n + j) − t − c(n + j).

The stage waits if g(j) > 0 for some n + j ≤ b in B whose t lies within the bound on waiting, until the t of the
greatest saving, at the longest. So nothing waits if nothing is expected, for t is large then; nothing waits with b
examples or more; and where a batch saves no time, c(n) = n c(1), nothing ever waits.

**Order.** Among the stages that do not wait, the one with the greatest

    u = (c(b) / b) / (c(m) / m) + a / max(W, q)

runs next; the later stage of equals. The first term, at most 1, is the efficiency of its batch. In the second, a is the
time since the stage ran or, if that is later, since its oldest example came; W is the bound on waiting and q the time
that the oldest example before the first stage has waited. A stage that does not run gains on all others, so that
neither arrivals nor survivors starve one. Below capacity q is small, and no stage is passed over for much longer than
W. Above capacity q grows, and efficiency decides: batches are full.
"""

import math
from collections.abc import Callable, Sequence

Seconds = Callable[[int], float]
"""Seconds of a stage by the number of rows."""


def best_size(sizes: Sequence[int], seconds: Seconds) -> int:
    """Return the size b with the least time per example, the largest one of equals."""
    return min(sizes, key=lambda size: (seconds(size) / size, -size))


def size_to_run(waiting: int, sizes: Sequence[int], seconds: Seconds) -> int:
    """Return how many of the waiting examples run together, m."""
    most = min(waiting, sizes[-1])
    return best_size([*(size for size in sizes if size < most), most], seconds)


def saving(waiting: int, more: int, within: float, seconds: Seconds) -> float:
    """Return the time g(j), in seconds per example, that is saved if n waiting examples wait for j more.

    Args:
        waiting: Number n of waiting examples.
        more: Number j of examples that are expected.
        within: Seconds t until they are expected.
        seconds: Times c of the stage.
    """
    alone = seconds(waiting)
    apart = waiting * alone + more * (max(within, alone) + seconds(more))
    return apart / (waiting + more) - within - seconds(waiting + more)


def time_to_wait(
    waiting: int, bound: float, best: int, sizes: Sequence[int], seconds: Seconds, time_for: Callable[[int], float]
) -> float:
    """Return for how many seconds n waiting examples should wait for more; 0 if they should run now.

    Args:
        waiting: Number n of waiting examples.
        bound: Seconds that they may wait at the longest.
        best: Best size b.
        sizes: Sizes of batches B.
        seconds: Times c of the stage.
        time_for: Expected seconds until some number of examples have arrived.
    """
    greatest, found = 0.0, 0.0
    for more in (size - waiting for size in sizes if waiting < size <= best):
        within = time_for(more)
        if within <= bound and (gain := saving(waiting, more, within, seconds)) > greatest:
            greatest, found = gain, within
    return found


def urgency(efficiency: float, unserved: float, wait: float, queued: float) -> float:
    """Return u, by which the stage that runs next is chosen.

    Args:
        efficiency: Least time per example divided by that of the batch, in (0, 1].
        unserved: Seconds a since the stage ran or its oldest example came.
        wait: Bound W on waiting in seconds.
        queued: Seconds q that the oldest example before the first stage has waited.
    """
    scale = max(wait, queued)
    return efficiency + (unserved / scale if scale > 0 else math.inf if unserved > 0 else 0.0)

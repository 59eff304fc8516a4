"""Runner alone, without a server: `python -m benchmarks.service.alone BUNDLE ROWS EXAMPLES SECONDS`.

It prints the median milliseconds of a run on batches of ROWS examples.
"""

import sys
import time
from pathlib import Path

import numpy as np

from suffice_runtime import Runner


def main(arguments: list[str]) -> None:
    """Run batches one after another for some seconds."""
    runner, rows, seconds = Runner(Path(arguments[0])), int(arguments[1]), float(arguments[3])
    with np.load(arguments[2]) as found:
        x = found["x"]
    batches = [x[i : i + rows] for i in range(0, len(x) - rows + 1, rows)]
    runner.run(batches[0])
    times, end = list[float](), time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        runner.run(batches[len(times) % len(batches)])
        times.append(time.perf_counter() - start)
    print(1e3 * float(np.median(times)))


if __name__ == "__main__":
    main(sys.argv[1:])

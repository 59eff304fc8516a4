"""Run every benchmark: `python -m benchmarks`."""

from benchmarks import exits

exits.main()

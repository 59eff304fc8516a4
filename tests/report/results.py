"""Small made-up results with the structure of those of the demo."""

_EXIT = {"accuracy": 0.8, "nll": 0.6, "brier": 0.2, "ece": 0.05, "ece_equal_mass": 0.06, "auroc": 0.9, "aurc": 0.04}


def _row(name):
    return {
        "name": name,
        "averaged": {**_EXIT, "eefp": 0.9},
        "intervals": {"accuracy": [0.7, 0.9], "nll": [0.5, 0.7], "ece": [0.04, 0.06]},
        "exits": [_EXIT, _EXIT],
        "reliability": [[[10.0, 9.0, 8.0], [0.0, 0.0, 0.0]], [[5.0, 2.0, 2.0], [5.0, 4.5, 4.0]]],
        "curve": [
            {"macs": 100.0, "accuracy": 0.8, "ece": 0.1, "shares": [0.7, 0.3]},
            {"macs": 150.0, "accuracy": 0.9, "ece": 0.05, "shares": [0.3, 0.7]},
        ],
    }


RESULTS = {
    "seed": 0,
    "versions": {"suffice": "0.1.0", "torch": "2.13.0"},
    "about": "About.",
    "closing": "Closing.",
    "notes": ["all: something to note"],
    "overlap": "All overlap.",
    "data": {"train": 1, "validation": 1, "test": 10},
    "ablation": [
        _row(name)
        for name in (
            "vanilla",
            "temperature",
            "ensemble",
            "ensemble + temperature",
            "Laplace",
            "Laplace + temperature",
            "all",
            "default",
        )
    ],
    "budget": {
        "asked": 0.5,
        "realised_macs": 161234.5,
        "full_macs": 315815,
        "shares": [0.41, 0.33, 0.26],
        "accuracy": 0.8,
        "full_accuracy": 0.81,
    },
    "timing": {"network_ms": 1234.5, "full_ms": 1234.5, "run_ms": 1234.5},
    "variation": {
        "truth_passes": 1000,
        "truth": [0.1, 0.2],
        "rows": [
            {"name": name, "passes": passes, "r2": -0.123, "spearman": 0.5, "estimate": [0.1, 0.3]}
            for name, passes in (
                ("dropout, T = 10", "10"),
                ("dropout, T = 100", "100"),
                ("delta rule", "1 and a gradient"),
                ("prediction only", "1"),
                ("estimator", "1"),
            )
        ],
    },
}

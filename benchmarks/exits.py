"""Cost of calibrated predictions at every exit, and of a policy, relative to the plain forward pass.

`python -m benchmarks.exits` prints medians of one interleaved run on one thread, on the reference network with
random weights and 32×32 color images.
"""

import torch
from rich.console import Console
from rich.table import Table

import suffice
from suffice.evaluation import ABLATION
from suffice.utils.timing import interleaved

BATCH = 256


def main() -> None:
    """Run the benchmark and print its table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = suffice.models.convnet(num_classes=100, in_channels=3, widths=(16, 32, 64)).eval()
    images, labels = torch.rand(4 * BATCH, 3, 32, 32), torch.randint(100, (4 * BATCH,))
    loader = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
    plain = suffice.calibrate(network, None, loader, structure=None, temperature=False, ensemble=False)
    choices = {**ABLATION["all"], "temperature": False, "generator": torch.Generator().manual_seed(0)}
    exits = suffice.calibrate(network, loader, loader, **choices)
    policy = suffice.allocate(exits, loader, 0.5)
    x = images[:BATCH]
    with torch.no_grad():
        times = interleaved(
            {
                "the network": lambda: network(x),
                "plain predictions": lambda: plain(x),
                "Laplace and ensemble": lambda: exits(x),
                "a policy at half the cost": lambda: suffice.run(exits, policy, x),
            }
        )
    table = Table("", "ms", "× the network", title=f"batch {BATCH}, 100 classes, one thread")
    for name, value in times.items():
        table.add_row(name, f"{value:.1f}", f"{value / times['the network']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()

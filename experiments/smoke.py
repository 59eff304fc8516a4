"""Arrange images of Tiny ImageNet as ImageNet's folders are, to try the ImageNet experiments end to end.

    python experiments/smoke.py FOLDER
    SUFFICE_DATA=STORE suffice reproduce imagenet-msdnet-4 --raw FOLDER --epochs 1 --validation 300 --float32 --eager

The first reads Tiny ImageNet from the store and writes `FOLDER/train/<class>/` and `FOLDER/val/<class>/`; the second
imports them into a store of its own, trains for an epoch on the processor, and makes every table. Its numbers say
nothing but that the commands work. ImageNet itself: the same second command, with the folder of the official tars and
without the options.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from suffice import data
from suffice.data.images import Images

IMAGES = {"train": 4, "val": 2}
"""Of each class."""


def write(split: Images, folder: Path, count: int) -> None:
    """So many images of each class, as JPEG."""
    for label in range(int(split.labels.max()) + 1):
        place = folder / f"n{label:08d}"
        place.mkdir(parents=True)
        rows = (split.labels == label).nonzero()[:count, 0]
        for number, image in enumerate(split.gather(rows, torch.device("cpu"))[0]):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{number}.JPEG", quality=95)


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    sets = data.load("tiny-imagenet", seed=0)
    for name, split in (("train", sets.train), ("val", sets.test)):
        write(split, folder / name, IMAGES[name])


if __name__ == "__main__":
    main()

"""Write images of Tiny ImageNet in the folder layout of ImageNet, to run the ImageNet experiments end to end.

    python experiments/smoke.py FOLDER
    SUFFICE_DATA=STORE suffice reproduce imagenet-msdnet-4 --raw FOLDER --epochs 1 --validation 300 --float32 --eager

The first command reads Tiny ImageNet from the store and writes `FOLDER/train/<class>/` and `FOLDER/val/<class>/`. The
second imports them into a separate store, trains for one epoch on the CPU, and makes every table. Its numbers only show
that the commands work. For ImageNet itself, run the second command with the folder of the official archives and without
the options.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from suffice import data
from suffice.data.splits.images import Images

IMAGES = {"train": 4, "val": 2}
"""Number of images per class of each part."""


def write(split: Images, folder: Path, count: int) -> None:
    """Write `count` images of each class as JPEG files."""
    for label in range(int(split.labels.max()) + 1):
        class_folder = folder / f"n{label:08d}"
        class_folder.mkdir(parents=True)
        rows = (split.labels == label).nonzero()[:count, 0]
        for number, image in enumerate(split.gather(rows, torch.device("cpu"))[0]):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(class_folder / f"{number}.JPEG", quality=95)


def main() -> None:
    """Write both parts to the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    sets = data.load("tiny-imagenet", seed=0)
    for name, split in (("train", sets.train), ("val", sets.test)):
        write(split, folder / name, IMAGES[name])


if __name__ == "__main__":
    main()

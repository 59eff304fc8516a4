"""Small generated data sets in the formats of the official distributions, with a few rows each."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np
from PIL import Image

from suffice.data.store import lookup
from suffice.data.store.writer import create_dataset
from suffice.utils.progress import quiet


def rng(seed=0):
    return np.random.default_rng(seed)


def write_tar(path, members, mode="w:gz"):
    """Write a tar of {name: bytes}."""
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def tar_bytes(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def image_bytes(size=(40, 30), seed=0, form="JPEG", mode="RGB"):
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    low = rng(seed).integers(0, 256, (4, 4, *shape[2:]), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(low).resize(size, Image.Resampling.BILINEAR).save(buffer, form, quality=95)
    return buffer.getvalue()


def cifar_batch(count, key=b"labels", seed=0, classes=10):
    return {
        b"data": rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8),
        key: [i % classes for i in range(count)],
        b"filenames": [b"x.png"] * count,
    }


def cifar10(path, count=4):
    batches = {f"data_batch_{i}": cifar_batch(count, seed=i) for i in range(1, 6)}
    batches["test_batch"] = cifar_batch(count, seed=6)
    names = [f"class {i}".encode() for i in range(10)]
    members = {f"cifar-10-batches-py/{name}": pickle.dumps(batch, protocol=2) for name, batch in batches.items()}
    members["cifar-10-batches-py/batches.meta"] = pickle.dumps({b"label_names": names}, protocol=2)
    return write_tar(path, members), batches


def cifar100(path, count=200):
    parts = {}
    for seed, part in enumerate(("train", "test")):
        batch = cifar_batch(count, b"fine_labels", seed, 100)
        parts[part] = batch | {b"coarse_labels": [label // 5 for label in batch[b"fine_labels"]]}
    fine, coarse = ([f"{what} {i}".encode() for i in range(n)] for what, n in (("fine", 100), ("coarse", 20)))
    meta = {b"fine_label_names": fine, b"coarse_label_names": coarse}
    members = {
        f"cifar-100-python/{name}": pickle.dumps(value, protocol=2) for name, value in {**parts, "meta": meta}.items()
    }
    return write_tar(path, members), parts


def compact_cifar100(folder):
    """Write mosaics of 2 × 2 images, five for training and one for testing; return the images."""
    folder.mkdir(parents=True)
    images = rng().integers(0, 256, (24, 3, 32, 32), dtype=np.uint8)
    for place, name in enumerate([*(f"train_{i}" for i in range(5)), "test"]):
        tiles = images[4 * place : 4 * place + 4].reshape(2, 2, 3, 32, 32)
        mosaic = tiles.transpose(0, 3, 1, 4, 2).reshape(64, 64, 3)
        Image.fromarray(mosaic).save(folder / f"{name}.webp", lossless=True, exact=True)
    labels = np.arange(24, dtype=np.uint8)
    np.savez(
        folder / "labels.npz",
        train=labels[:20],
        test=labels[20:],
        train_coarse=labels[:20] // 5,
        test_coarse=labels[20:] // 5,
        names=np.array([f"fine {i}" for i in range(100)]),
        coarse_names=np.array([f"coarse {i}" for i in range(20)]),
    )
    return images


def idx(array):
    magic = 0x800 + array.ndim
    return struct.pack(f">{array.ndim + 1}I", magic, *array.shape) + array.tobytes()


def emnist(path, split="balanced", classes=47, first=0, counts=(100, 50)):
    """Write the official zip; return it and the upright images with their labels."""
    members, upright = {}, {}
    for seed, (part, count) in enumerate(zip(("train", "test"), counts, strict=True)):
        images = rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % classes + first).astype(np.uint8)
        name = f"gzip/emnist-{split}-{part}"
        members[f"{name}-images-idx3-ubyte.gz"] = gzip.compress(idx(images.transpose(0, 2, 1).copy()))
        members[f"{name}-labels-idx1-ubyte.gz"] = gzip.compress(idx(labels))
        upright[part] = images, labels
    return write_zip(path, members), upright


def ratings(count=60, seed=0):
    draw = rng(seed)
    return [
        (int(draw.integers(1, 9)), int(draw.integers(1, 12)), int(draw.integers(1, 6)), 978300760 + i)
        for i in range(count)
    ]


def movielens(path, release):
    rows = ratings()
    if release == "100k":
        flags = "|".join(["0"] * 17 + ["1", "1"])
        members = {
            "ml-100k/u.data": "".join("\t".join(map(str, row)) + "\n" for row in rows),
            "ml-100k/u.item": f"1|Amélie (2001)|01-Jan-2001||http://x|{flags}\n".encode("latin-1"),
            "ml-100k/u.user": "1|24|M|technician|85711\n2|53|F|other|94043\n",
        }
    elif release == "1m":
        members = {
            "ml-1m/ratings.dat": "".join("::".join(map(str, row)) + "\n" for row in rows),
            "ml-1m/movies.dat": "1::Amélie (2001)::Comedy|Romance\n".encode("latin-1"),
            "ml-1m/users.dat": "1::M::24::10::85711\n2::F::53::16::94043\n",
        }
    else:
        text = "".join(f"{u},{m},{r / 2},{t}\n" for u, m, r, t in rows)
        members = {
            "ml-25m/ratings.csv": f"userId,movieId,rating,timestamp\n{text}",
            "ml-25m/movies.csv": 'movieId,title,genres\n1,"American President, The (1995)",Comedy|Drama\n',
        }
    return write_zip(path, members), rows


def criteo_lines(count=200, seed=0):
    """Return lines of the Kaggle text, some with missing values, and the values."""
    draw = rng(seed)
    lines, values = [], []
    for _ in range(count):
        label = int(draw.random() < 0.25)
        numbers = [None if draw.random() < 0.2 else int(draw.integers(-3, 5000)) for _ in range(13)]
        codes = [None if draw.random() < 0.1 else int(draw.integers(0, 30)) * 0x9E3779B1 % 2**32 for _ in range(26)]
        cells = [label, *numbers, *(None if code is None else f"{code:08x}" for code in codes)]
        lines.append("\t".join("" if cell is None else str(cell) for cell in cells) + "\n")
        values.append((label, numbers, codes))
    return lines, values


def tiny_imagenet(path):
    wnids = ["n02", "n01"]
    members = {
        "tiny-imagenet-200/wnids.txt": "\n".join(wnids) + "\n",
        "tiny-imagenet-200/words.txt": "n01\tgoldfish\nn02\tshark, big\nn03\tother\n",
        "tiny-imagenet-200/val/val_annotations.txt": "val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\n",
    }
    for i in range(2):
        members[f"tiny-imagenet-200/val/images/val_{i}.JPEG"] = image_bytes((64, 64), i)
        for wnid in wnids:
            mode = "L" if i else "RGB"
            members[f"tiny-imagenet-200/train/{wnid}/images/{wnid}_{i}.JPEG"] = image_bytes((64, 64), i, mode=mode)
    return write_zip(path, members)


def imagenet(folder):
    """Write the three archives: two classes of three training images each, and four validation images."""
    from scipy.io import savemat

    folder.mkdir(exist_ok=True)
    classes = {1: "n02", 2: "n01"}
    trained = {
        f"{wnid}.tar": tar_bytes({f"{wnid}_{i}.JPEG": image_bytes((50, 40), i) for i in range(3)})
        for wnid in classes.values()
    }
    write_tar(folder / "ILSVRC2012_img_train.tar", trained, "w")
    names = [f"ILSVRC2012_val_{i:08}.JPEG" for i in (3, 1, 2, 4)]
    write_tar(folder / "ILSVRC2012_img_val.tar", {n: image_bytes((50, 40), 10) for n in names}, "w")
    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "f8")]
    rows = np.array([(1, "n02", "b", "", 0), (2, "n01", "a", "", 0), (3, "n09", "both", "", 2)], dtype=kinds)
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": rows})
    kit = {
        "ILSVRC2012_devkit_t12/data/meta.mat": buffer.getvalue(),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": b"1\n2\n2\n1\n",
    }
    write_tar(folder / "ILSVRC2012_devkit_t12.tar.gz", kit)
    return folder


def image_folder(folder, classes=("cat", "dog"), count=5):
    for seed, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            (folder / name / f"{i}.jpg").write_bytes(image_bytes((60, 40), 10 * seed + i))
    return folder


def stored_array(name="things", rows=6):
    """Store an array (rows, 2) in two blocks, and return the data set."""
    with create_dataset(name, quiet) as writer:
        with writer.array("all_images", (rows, 2), np.uint8) as append:
            append(np.arange(4, dtype=np.uint8).reshape(2, 2))
            append(np.arange(2 * rows - 4, dtype=np.uint8).reshape(-1, 2))
        writer.manifest["parts"] = {"all": rows}
    return lookup.find(name)

#!/usr/bin/env python3
"""Downloads public data sets from their publishers and checks them.

Complete files are not downloaded again. The script needs only Python. docs/data.md describes the sets.
"""

import argparse
import hashlib
import os
import pathlib
import shutil
import sys
import tarfile
import urllib.error
import urllib.request

MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
CIFAR = "https://www.cs.toronto.edu/~kriz/"
SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
AG_NEWS = "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv/"

EXAMPLES = """examples:
  tools/get_data.py mnist cifar10
  tools/get_data.py all --to /scratch/data
  tools/get_data.py agnews --from /mnt/downloads    without a network"""

# name: (folder, URL, {file: MD5 from its publisher or the usual loaders}, files of an archive)
SETS = {
    "mnist": ("mnist", MNIST, {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    }, []),
    "fashion-mnist": ("fashion-mnist", FASHION, {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    }, []),
    "cifar10": ("cifar-10-batches-bin", CIFAR, {
        "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    }, [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]),
    "cifar100": ("cifar-100-binary", CIFAR, {
        "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
    }, ["train.bin", "test.bin"]),
    "tinyshakespeare": ("tinyshakespeare", SHAKESPEARE, {
        "input.txt": "6fb458f1232090904fb40fe944165e91",
    }, []),
    "agnews": ("ag_news_csv", AG_NEWS, {
        "train.csv": "b1a00f826fdfbd249f79597b59e1dc12",
        "test.csv": "d52ea96a97a2d943681189a97654912d",
    }, []),
}


def md5(path):
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch(source, path, expected):
    """Downloads a file; it gets its final name only after its MD5 was checked."""
    part = path.with_name(path.name + ".part")
    try:
        if "://" in source:
            with urllib.request.urlopen(source, timeout=60) as answer, open(part, "wb") as file:
                shutil.copyfileobj(answer, file)
        else:
            shutil.copyfile(source, part)
        found = md5(part)
        if found != expected:
            sys.exit(f"error: {source} is not the expected file (MD5 {found} instead of {expected}); nothing was kept")
        part.replace(path)
    except (OSError, urllib.error.URLError) as error:
        sys.exit(f"error: {source} cannot be fetched: {error}")
    finally:
        part.unlink(missing_ok=True)


def get(name, target, place):
    folder, url, files, members = SETS[name]
    base = url if place is None else place.rstrip("/") + "/"
    destination = target / folder
    destination.mkdir(parents=True, exist_ok=True)
    if members and all((destination / member).exists() for member in members):
        print(f"{name}: already in {destination}")
        return
    for file, expected in files.items():
        path = destination / file
        if not (path.exists() and md5(path) == expected):
            fetch(base + file, path, expected)
        if members:
            unpack(path, destination, members)
            path.unlink()
    print(f"{name}: in {destination}")


def unpack(archive, destination, members):
    """Extracts only `members` from the archive."""
    with tarfile.open(archive) as tar:
        found = {pathlib.PurePosixPath(item.name).name: item for item in tar if item.isfile()}
        for member in members:
            if member not in found:
                sys.exit(f"error: {archive} has no {member}")
            part = destination / (member + ".part")
            with tar.extractfile(found[member]) as source, open(part, "wb") as file:
                shutil.copyfileobj(source, file)
            part.replace(destination / member)


def main():
    parser = argparse.ArgumentParser(usage="get_data.py NAME... [options]", description=__doc__.split("\n\n")[0],
                                     epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", choices=[*SETS, "all"], help=", ".join(SETS) + ", or all")
    parser.add_argument("--to", metavar="FOLDER", type=pathlib.Path,
                        default=pathlib.Path(os.environ.get("ESPALIER_DATA") or "data"),
                        help="parent folder of the sets; default: $ESPALIER_DATA, else data")
    parser.add_argument("--from", metavar="PLACE", dest="place",
                        help="a folder or URL with the same files, not the publishers'")
    arguments = parser.parse_args()
    for name in SETS if "all" in arguments.names else arguments.names:
        get(name, arguments.to, arguments.place)


if __name__ == "__main__":
    main()

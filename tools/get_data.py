#!/usr/bin/env python3
"""Downloads public data sets from their publishers and checks them.

Complete files are not downloaded again. The script needs only Python; `motion` needs NumPy, and pip to download. docs/data.md
describes the sets.
"""

import argparse
import hashlib
import http.client
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile

sys.path.append(str(pathlib.Path(__file__).resolve().parent))
from command_line import Parser, ends_well, refuse, writing

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

# The data of the Python package seglearn: motion of a wrist, 50 values a second in six channels, while 10 people do 7 exercises.
MOTION = ("seglearn==1.2.5", "seglearn-1.2.5-py3-none-any.whl", "c24d5b5f895a732963ae93fb9241f659")
MOTION_MEMBER = "seglearn/data/watch_dataset.npy"
WINDOW = 100  # values of a sample: two seconds
NAMES = [*SETS, "motion"]


def md5(path):
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def blocks_of(source):
    """The content of a file or URL."""
    try:
        with urllib.request.urlopen(source, timeout=60) if "://" in source else open(source, "rb") as answer:
            while block := answer.read(1 << 20):
                yield block
    except (OSError, ValueError, http.client.HTTPException) as error:
        refuse(f"{source} cannot be fetched: {error}", 3)


def fetch(source, path, expected):
    """Downloads a file; it gets its final name only after its MD5 was checked."""
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            for block in blocks_of(source):
                file.write(block)
        found = md5(part)
        if found != expected:
            refuse(f"{source} is not the expected file (MD5 {found} instead of {expected}); nothing was kept", 3)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def fetch_wheel(package, place, folder):
    """Returns the path below `folder` of a package's wheel, which pip downloads, or which lies in `place`; its MD5 is checked. Nothing is
    installed. `package`: requirement, file name and MD5."""
    requirement, wheel, expected = package
    path = pathlib.Path(folder, "checked", wheel)
    path.parent.mkdir()
    if place is None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder, requirement]
        if subprocess.run(command, check=False).returncode != 0:
            refuse(f"{requirement} cannot be downloaded by pip; see its message above", 3)
    fetch(f"{(place or folder).rstrip('/')}/{wheel}", path, expected)
    return path


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


def get_motion(target, place):
    destination = target / "motion"
    files = [destination / f"{name}.npy" for name in ("x", "y", "client", "split")]
    if all(file.exists() for file in files):
        print(f"motion: already in {destination}")
        return
    try:
        import numpy
    except ImportError:
        refuse(f"motion needs NumPy: {sys.executable} -m pip install numpy")
    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(fetch_wheel(MOTION, place, folder)) as archive:
            archive.extract(MOTION_MEMBER, folder)
        # The file is a pickle, which may run code when it is read; its package was checked just now.
        series = numpy.load(pathlib.Path(folder, MOTION_MEMBER), allow_pickle=True).item()
    for file, values in zip(files, motion_windows(numpy, series)):
        part = file.with_suffix(".part")
        with open(part, "wb") as out:
            numpy.save(out, values)
        part.replace(file)
    print(f"motion: in {destination}")


def motion_windows(numpy, series):
    """Returns x [windows, channels, values], y, client and split. Windows of a series do not overlap; its last fifth is for tests."""
    rows = []
    for values, exercise, person in zip(series["X"], series["y"], series["subject"]):
        count = len(values) // WINDOW
        for i in range(count):
            rows.append((values[i * WINDOW:(i + 1) * WINDOW].T, exercise, person - 1, i >= count - count // 5))
    x, *others = zip(*rows)
    return [numpy.array(x, numpy.float32), *(numpy.array(column, numpy.int64) for column in others)]


def unpack(archive, destination, members):
    """Extracts only `members` from the archive."""
    with tarfile.open(archive) as tar:
        found = {pathlib.PurePosixPath(item.name).name: item for item in tar if item.isfile()}
        for member in members:
            if member not in found:
                refuse(f"{archive} has no {member}", 3)
            part = destination / (member + ".part")
            try:
                with tar.extractfile(found[member]) as source, open(part, "wb") as file:
                    shutil.copyfileobj(source, file)
                part.replace(destination / member)
            finally:
                part.unlink(missing_ok=True)


@ends_well
def main():
    parser = Parser(prog="get_data.py", usage="get_data.py NAME... [options]", description=__doc__.split("\n\n")[0],
                    epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", choices=[*NAMES, "all"], help=", ".join(NAMES) + ", or all")
    parser.add_argument("--to", metavar="FOLDER", type=pathlib.Path,
                        default=pathlib.Path(os.environ.get("ESPALIER_DATA") or "data"),
                        help="parent folder of the sets; default: $ESPALIER_DATA, else data")
    parser.add_argument("--from", metavar="PLACE", dest="place",
                        help="a folder or URL with the same files, not the publishers'")
    arguments = parser.parse_args()
    for name in NAMES if "all" in arguments.names else arguments.names:
        with writing(arguments.to):
            if name == "motion":
                get_motion(arguments.to, arguments.place)
            else:
                get(name, arguments.to, arguments.place)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Makes inputs/digits, the small, balanced part of MNIST for the quickstart.

    tools/make_digits.py FOLDER [OUT]

FOLDER holds the four original gzipped IDX files. The images are spread evenly over the originals, class by class, so
the part is as hard as the whole. Their order is 0, 1, ..., 9, 0, ..., so any first part of it is balanced.
The same input gives the same bytes.
"""
import gzip
import io
import pathlib
import struct
import sys

TRAIN_PER_CLASS = 500
TEST_PER_CLASS = 100
SIZE_LIMIT = 1_000_000  # bytes of the folder


def read_idx(path, magic, dimensions):
    raw = gzip.open(path).read()
    header = struct.unpack_from(f">{1 + dimensions}I", raw)
    if header[0] != magic:
        sys.exit(f"{path}: not the expected IDX file")
    return raw[4 + 4 * dimensions :], header[1:]


def write_gz(path, header, body):
    buffer = io.BytesIO()
    # No name and no time in the gzip header: equal content makes equal files.
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as f:
        f.write(header + body)
    path.write_bytes(buffer.getvalue())


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    source = pathlib.Path(sys.argv[1])
    out = pathlib.Path(sys.argv[2] if len(sys.argv) == 3 else pathlib.Path(__file__).parent / "../inputs/digits")
    out.mkdir(parents=True, exist_ok=True)
    for split, per_class in (("train", TRAIN_PER_CLASS), ("t10k", TEST_PER_CLASS)):
        images, (count, rows, columns) = read_idx(source / f"{split}-images-idx3-ubyte.gz", 2051, 3)
        labels, _ = read_idx(source / f"{split}-labels-idx1-ubyte.gz", 2049, 1)
        taken = []
        for digit in range(10):
            members = [i for i in range(count) if labels[i] == digit]
            taken.append([members[k * len(members) // per_class] for k in range(per_class)])
        order = [taken[digit][k] for k in range(per_class) for digit in range(10)]
        pixels = rows * columns
        write_gz(out / f"{split}-images-idx3-ubyte.gz", struct.pack(">4I", 2051, len(order), rows, columns),
                 b"".join(images[i * pixels : (i + 1) * pixels] for i in order))
        write_gz(out / f"{split}-labels-idx1-ubyte.gz", struct.pack(">2I", 2049, len(order)),
                 bytes(labels[i] for i in order))
    total = sum(f.stat().st_size for f in out.iterdir())
    print(f"{out}: {total} bytes")
    if total >= SIZE_LIMIT:
        sys.exit(f"the limit is {SIZE_LIMIT} bytes: take fewer images per class")


if __name__ == "__main__":
    main()

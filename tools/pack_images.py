#!/usr/bin/env python3
"""Packs a folder of images, one subfolder for each class, into one HDF5 file for
`data.name = arrays`. docs/data.md has the rules.

FOLDER has a subfolder for each class; or `train` and `test`, each with such subfolders. Without `test`, `val`, `valid` or
`validation` replaces it; upper or lower case.

Classes are numbered in the order of their names; the attribute `classes` of `y` has the names. The pixels are
contiguous bytes [sample, channel, row, column], so Espalier can map the file into memory. If any image
has more than 8 bits per pixel, all pixels are float32: values of 8 and 16 bits scaled to 0 to 1, floats and 32-bit
integers unchanged. Palettes are looked up, transparency is dropped. Files and folders of a system or an editor (hidden
ones, __MACOSX, @eaDir) are skipped.
"""

import argparse
import contextlib
import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parent))
from command_line import Parser, ends_well, refuse, writing
from needed_packages import need

need("numpy", "h5py", "PIL")
import h5py
import numpy as np
from PIL import Image, UnidentifiedImageError

EXAMPLES = """examples:
  tools/pack_images.py photos photos.h5
  tools/pack_images.py photos photos.h5 --size 32 --grey
  build/espalier run mine.ini --data.name=arrays --data.file=photos.h5"""
LEFT_BY_SYSTEMS = {"__MACOSX", "@eaDir"}
VALIDATION = ("val", "valid", "validation")
ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".webp"}


def is_own(name):
    return not name.startswith(".") and name not in LEFT_BY_SYSTEMS


def subfolders(folder):
    return sorted(item for item in folder.iterdir() if item.is_dir() and is_own(item.name))


def images_below(place):
    return sorted(f for f in place.rglob("*")
                  if f.suffix.lower() in ENDINGS and all(map(is_own, f.relative_to(place).parts)))


def images_of(folder, split):
    """Returns (path, class name, split) of every image."""
    found = []
    for place in subfolders(folder):
        files = images_below(place)
        if not files:
            refuse(f"{place} has no images")
        inner = sorted({file.relative_to(place).parts[0] for file in files})
        if len(inner) > 1 and all(file.parent != place for file in files):
            refuse(f"{place} has no images, only folders of images ({', '.join(inner[:5])}): rename it to train, test "
                   f"or {VALIDATION[0]} if they are classes, otherwise put its images into one folder")
        found += [(file, place.name, split) for file in files]
    return found


def collect(folder):
    """Returns the images, whether there is a test split, and the folders that are not packed."""
    parts = {}
    for place in subfolders(folder):
        other = parts.setdefault(place.name.lower(), place)
        if other != place and place.name.lower() in ("train", "test", *VALIDATION):
            refuse(f"{other} and {place} are the same part: rename one")
    test = next((parts[name] for name in ("test", *VALIDATION) if name in parts), None)
    if "train" not in parts or test is None:
        return images_of(folder, 0), False, []
    train = parts["train"]
    left_out = [place for place in subfolders(folder) if place not in (train, test)]
    return images_of(train, 0) + images_of(test, 1), True, left_out


def scaled(image, size):
    return image.resize((size, size), Image.Resampling.BILINEAR) if size else image


@contextlib.contextmanager
def opened(path):
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, ValueError, UnidentifiedImageError) as error:
        refuse(f"{path} cannot be read as an image: {error}", 3)


def is_deep(image):
    """Returns whether the pixels have more than 8 bits, from the header of the file."""
    return image.mode in ("F", "I") or image.mode.startswith("I;16")


def read(path, size, mode):
    """Returns pixels [channel, row, column] and the value of white: 255, 65535, or 1 for unchanged numbers."""
    with opened(path) as image:
        if is_deep(image):
            # Some versions of Pillow return 16-bit images of these formats as 32-bit integers.
            is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
            grey = np.asarray(scaled(Image.fromarray(np.asarray(image).astype(np.float32)), size))
            return np.repeat(grey[None], 1 if mode == "L" else 3, axis=0), 65535 if is_16_bit else 1
        pixels = np.asarray(scaled(image.convert(mode), size))
    return (pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)), 255


def has_bytes(path):
    with opened(path) as image:
        return not is_deep(image)


@ends_well
def main():
    parser = Parser(prog="pack_images.py", usage="pack_images.py FOLDER OUT.h5 [options]", description=__doc__.split("\n\n")[0],
                    epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=pathlib.Path,
                        help="a subfolder for each class; or train and test with such subfolders")
    parser.add_argument("out", metavar="OUT.h5", type=pathlib.Path, help="the file to write, for data.file")
    parser.add_argument("--size", metavar="N", type=int, help="scale every image to N x N; default: all have one size")
    parser.add_argument("--grey", action="store_true", help="one channel instead of three")
    arguments = parser.parse_args()
    if arguments.size is not None and arguments.size < 1:
        refuse("--size is a number of pixels, at least 1")
    if not arguments.folder.is_dir():
        refuse(f"{arguments.folder} is not a folder")
    items, has_test, left_out = collect(arguments.folder)
    classes = sorted({name for _, name, _ in items})
    if len(classes) < 2:
        refuse(f"{arguments.folder} has {len(classes)} class folders; at least two are needed")
    mode = "L" if arguments.grey else "RGB"
    first, white = read(items[0][0], arguments.size, mode)
    all_bytes = all(has_bytes(path) for path, _, _ in items)
    part = arguments.out.with_name(arguments.out.name + ".part")
    with writing(arguments.out), contextlib.ExitStack() as ends:
        ends.callback(part.unlink, missing_ok=True)
        with h5py.File(part, "w") as file:
            x = file.create_dataset("x", (len(items), *first.shape), np.uint8 if all_bytes else np.float32)
            for i, (path, _, _) in enumerate(items):
                pixels, scale = read(path, arguments.size, mode)
                if (scale == 1) != (white == 1):
                    refuse(f"{path} and {items[0][0]} differ in kind: unchanged numbers (floats, 32-bit "
                           "integers) and pixels from black to white cannot be in one file")
                if pixels.shape != first.shape:
                    refuse(f"{path} has {pixels.shape[2]} x {pixels.shape[1]} pixels, {items[0][0]} "
                           f"{first.shape[2]} x {first.shape[1]}: scale them with --size")
                x[i] = pixels if all_bytes else pixels / np.float64(scale)
            y = file.create_dataset("y", data=np.array([classes.index(name) for _, name, _ in items], np.int64))
            y.attrs["classes"] = classes
            if has_test:
                file["split"] = np.array([split for _, _, split in items], np.uint8)
        part.replace(arguments.out)
    held = "bytes" if all_bytes else "float32, unchanged" if white == 1 else "float32, 0 to 1"
    print(f"{arguments.out}: {len(items)} images of {' x '.join(map(str, first.shape))} ({held}) in {len(classes)} classes")
    if has_test:
        test = next(path for path, _, split in items if split == 1).relative_to(arguments.folder).parts[0]
        print(f"the images of {arguments.folder / test} are the test split")
    for place in left_out:
        print(f"{place}: {len(images_below(place))} images are left out")


if __name__ == "__main__":
    sys.exit(main())

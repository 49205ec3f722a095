"""Runs on data of every form: the user's own files, and partitions whose samples are drawn on demand."""

import json
import os
import re
import shutil
import subprocess
import sys
import unittest
import zlib

import h5py
import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from support import ProgramTest  # noqa: E402

ROOT = os.path.dirname(os.environ["ESPALIER_INPUTS"])
PYTHON = os.path.join(ROOT, ".venv", "bin", "python")


class Partitions(ProgramTest):
    def same_on_one_and_three(self, *settings):
        self.assert_same(self.run_ok("one", *settings), self.run_ok("three", *settings, ranks=3))

    def test_drawn_with_crops_and_local_tests(self):
        self.same_on_one_and_three("--data.partition=dominant", "--data.samples_per_client=70", "--data.local_test=0.2",
                                   "--data.augment=crop_flip")

    def test_long_tail_with_norm_calibration(self):
        self.same_on_one_and_three("--data.partition=long_tail", "--data.long_tail_split=dirichlet",
                                   "--data.imbalance=10", "--model.name=cnn", "--model.channels=4,8",
                                   "--model.features=16", "--model.norm=batch", "--data.local_test=0.3")

    def test_many_registered_clients(self):
        self.run_ok("many", "--clients.count=70000", "--clients.per_round=7", "--data.samples_per_client=20",
                    "--data.partition=dirichlet")

    def test_the_column_of_a_table_says_whose_a_row_is(self):
        rows = [f"{i % 7},{i},{i % 13},{i % 3}" for i in range(210)]
        self.write("data.csv", "\n".join(["who,a,b,class", *rows]) + "\n")
        self.run_ok("table", "--data.name=csv", f"--data.dir={self.folder.name}", "--data.partition=given",
                    "--data.csv_client=who", "--data.normalise=computed")

    def test_users_of_leaf_are_clients(self):
        """The speakers are three, and each line is its own; two of them take part."""
        user_data = {}
        for user, count in (("third", 90), ("first", 60), ("second", 75)):
            line = (user + " says a word ") * 9
            user_data[user] = {"x": [line[i:i + 6] for i in range(count)], "y": list(line[6:count + 6])}
        users = ["first", "second", "third"]
        self.write("mine.json", json.dumps({"users": users, "num_samples": [60, 75, 90], "user_data": user_data}))
        settings = ("--data.name=leaf", f"--data.dir={self.folder.name}", "--data.file=mine.json", "--data.partition=given",
                    "--data.test_share=0.2", "--clients.fleet=", "--model.name=gpt", "--model.depth=1", "--model.embed=12",
                    "--model.heads=2", "--run.rounds=1", "--train.epochs=1")
        self.same_on_one_and_three(*settings, "--clients.count=2")
        tasks = self.table(self.path("runs", "one"), "tasks")
        self.assertEqual(dict(zip(tasks["client"].tolist(), tasks["samples"].tolist())), {0: 48, 1: 60})
        self.assert_refused(2, "clients.count = 4 is more than the 3 clients (0 to 2) that leaf names", "run", self.input, *settings,
                            "--clients.count=4", "--run.name=four")


def png(path, side, grey):
    """A PNG of one grey level, written without any library."""
    def chunk(kind, content):
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    rows = (b"\0" + bytes([grey] * side)) * side
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
                   + chunk(b"IEND", b""))


@unittest.skipUnless(os.path.exists(PYTHON), "skipped: no .venv with the tools' packages (tools/setup.sh makes one)")
class Tools(ProgramTest):
    def tool(self, name, *words):
        return subprocess.run([PYTHON, os.path.join(ROOT, "tools", name), *words], cwd=self.folder.name,
                              capture_output=True, text=True, timeout=120)

    def test_packed_images_are_trained_on(self):
        for split, count in (("train", 14), ("test", 3)):
            for kind, grey in (("dark", 20), ("light", 230), ("middle", 120)):
                for i in range(count):
                    png(self.path("images", split, kind, f"{i}.png"), 12, grey + i)
        packed = self.tool("pack_images.py", "images", "mine.h5", "--grey")
        self.assertEqual(packed.returncode, 0, packed.stderr)
        self.assertIn("51 images of 1 x 12 x 12 (bytes) in 3 classes", packed.stdout)
        settings = ("--data.name=arrays", "--data.file=mine.h5", "--data.partition=iid", "--data.normalise=computed",
                    "--run.rounds=30")
        done = self.espalier("run", self.input, *settings)
        self.assertEqual(done.returncode, 0, done.stderr)
        # Grey levels far apart, so that all nine test images are classified correctly.
        self.assertIn("top1=1.0000", done.stdout.splitlines()[-1])
        checked = self.espalier("run", self.input, *settings, "--check")
        self.assertRegex(checked.stdout, re.compile("42 training and 9 test samples"))

    def test_images_that_cannot_be_packed(self):
        png(self.path("images", "a", "1.png"), 12, 1)
        png(self.path("images", "b", "1.png"), 13, 1)
        self.assertIn("--size", self.tool("pack_images.py", "images", "mine.h5").stderr)
        self.assertIn("--size is a number", self.tool("pack_images.py", "images", "mine.h5", "--size", "0").stderr)
        self.write(os.path.join("images", "b", "1.png"), "no picture")
        self.assertIn("cannot be read as an image", self.tool("pack_images.py", "images", "mine.h5").stderr)
        self.assertFalse(os.path.exists(self.path("mine.h5")))

    def pack(self, *parts):
        """Packs classes a and b of each part, with one image each in the first, two in the second, and so on."""
        shutil.rmtree(self.path("images"), ignore_errors=True)
        for count, part in enumerate(parts, 1):
            for kind in "ab":
                for i in range(count):
                    png(self.path("images", part, kind, f"{i}.png"), 6, 9 * i)
        return self.tool("pack_images.py", "images", "mine.h5")

    def test_parts_of_images_by_any_of_their_names(self):
        for parts, test, left_out in ((("Train", "TEST"), 1, {}), (("TRAIN", "Validation"), 1, {}),
                                      (("train", "valid"), 1, {}), (("Val", "Test", "train"), 1, {"Val": 2}),
                                      (("train", "extra", "test", "validation"), 2, {"extra": 4, "validation": 8})):
            with self.subTest(parts):
                done = self.pack(*parts)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertIn(f"images/{parts[test]} are the test split", done.stdout)
                printed = re.findall(r"images/(\w+): (\d+) images are left out", done.stdout)
                self.assertEqual({name: int(count) for name, count in printed}, left_out)
                sizes = {part: 2 * count for count, part in enumerate(parts, 1)}
                with h5py.File(self.path("mine.h5")) as file:
                    self.assertEqual(list(file["y"].attrs["classes"]), ["a", "b"])
                    self.assertEqual(int(file["split"][:].sum()), sizes[parts[test]])
                    self.assertEqual(len(file["y"]), sum(sizes.values()) - sum(left_out.values()))

    def test_parts_are_not_taken_for_classes(self):
        for parts in (("Train",), ("Train", "Evaluation"), ("2023", "2024")):
            with self.subTest(parts):
                refused = self.pack(*parts)
                self.assertEqual(refused.returncode, 1)
                self.assertRegex(refused.stderr, r"^error: images/\w+ has no images, only folders of images \(a, b\)")
                self.assertFalse(os.path.exists(self.path("mine.h5")))
        # One more folder around the images of a class is common.
        os.rename(self.path("images", "2023", "a"), self.path("a"))
        os.rename(self.path("images", "2024", "b"), self.path("b"))
        done = self.tool("pack_images.py", "images", "mine.h5")
        self.assertIn("in 2 classes", done.stdout, done.stderr)

    def test_a_fetched_file_is_checked(self):
        self.write("input.txt", "another text")
        refused = self.tool("get_data.py", "tinyshakespeare", "--from", ".", "--to", "data")
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("is not the expected file", refused.stderr)
        self.assertEqual(os.listdir(self.path("data", "tinyshakespeare")), [])

    def test_windows_of_motion(self):
        """A series of 530 values has five windows, of which the last is for tests; one of 99 has none."""
        sys.path.insert(0, os.path.join(ROOT, "tools"))
        import get_data
        draw = np.random.default_rng(2)
        series = {"X": [draw.normal(size=(length, 6)) for length in (530, 99, 200)], "y": np.array([4, 1, 0]),
                  "subject": np.array([3, 2, 1])}
        x, y, client, split = get_data.motion_windows(np, series)
        self.assertEqual((x.shape, x.dtype), ((7, 6, 100), np.float32))
        np.testing.assert_array_equal(x[3], series["X"][0][300:400].T.astype("f4"))
        np.testing.assert_array_equal(x[6], series["X"][2][100:].T.astype("f4"))
        self.assertEqual(y.tolist(), [4] * 5 + [0] * 2)
        self.assertEqual(client.tolist(), [2] * 5 + [0] * 2)
        self.assertEqual(split.tolist(), [0, 0, 0, 0, 1, 0, 0])

    def test_another_package_of_motion_is_refused(self):
        self.write("seglearn-1.2.5-py3-none-any.whl", "not the package")
        refused = self.tool("get_data.py", "motion", "--from", ".", "--to", "data")
        self.assertEqual(refused.returncode, 1)
        self.assertRegex(refused.stderr, r"^error: \./seglearn-1\.2\.5\S+ is not the expected file")
        self.assertEqual(os.listdir(self.path("data", "motion")), [])

    def test_a_right_file_is_kept(self):
        source = os.path.join(os.environ.get("ESPALIER_DATA", ""), "tinyshakespeare")
        if not os.path.exists(os.path.join(source, "input.txt")):
            self.skipTest("skipped: ESPALIER_DATA names no folder with tinyshakespeare")
        done = self.tool("get_data.py", "tinyshakespeare", "--from", source, "--to", "data")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(os.path.getsize(self.path("data", "tinyshakespeare", "input.txt")), 1115394)


if __name__ == "__main__":
    unittest.main()

"""Runs on data of every form: the user's own files, and partitions whose samples are drawn on demand."""

import json
import os
import pathlib
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

    def test_a_file_says_whose_a_sample_is(self):
        whose = [(i * i + i // 9) % 7 for i in range(600)]
        self.write("whose.txt", "".join(f"{client}\n" for client in whose))
        settings = ("--data.partition=file", "--data.partition_file=whose.txt")
        self.same_on_one_and_three(*settings)
        samples = self.column(self.path("runs", "one"), "samples", "clients")
        self.assertEqual(samples.tolist(), [whose.count(client) for client in range(7)])
        # As an array of clients does it.
        draw = np.random.default_rng(5)
        arrays = {"x": draw.normal(size=(660, 6)).astype(np.float32), "y": draw.integers(0, 4, 660),
                  "split": np.arange(660) // 600, "client": np.array([*whose, *[0] * 60])}
        for name in ("with", "without"):
            os.mkdir(self.path(name))
            for key, values in arrays.items():
                if key != "client" or name == "with":
                    np.save(self.path(name, f"{key}.npy"), values)
        settings = ("--data.name=arrays", "--data.partition=given")
        given = self.run_ok("given", *settings, f"--data.dir={self.path('with')}")
        file = self.run_ok("file", "--data.name=arrays", f"--data.dir={self.path('without')}", "--data.partition=file",
                           "--data.partition_file=whose.txt")
        self.assert_equal_models(given, file)

    def test_a_file_divides_a_text(self):
        text = self.write("t.txt", "to be or not to be that is the question " * 60)
        settings = ["--data.name=text", f"--data.file={text}", "--data.length=8", "--model.name=gpt", "--model.embed=8",
                    "--model.heads=2", "--model.depth=1", "--run.rounds=1"]
        checked = self.espalier("run", self.input, *settings, "--data.partition=iid", "--check").stdout
        windows = int(re.search(r"(\d+) training", checked)[1])
        whose = [i * i % 10 % 7 if i > 6 else i for i in range(windows)]
        self.write("whose.txt", "".join(f"{client}\n" for client in whose))
        run = self.run_ok("a", *settings, "--data.partition=file", "--data.partition_file=whose.txt")
        self.assertEqual(self.column(run, "samples", "clients").tolist(), [whose.count(client) for client in range(7)])

    def test_a_file_of_clients_as_editors_on_windows_write_it(self):
        whose = "".join(f"{i % 7}\n" for i in range(600))
        name = "--data.partition_file=whose.txt"
        self.write("whose.txt", whose)
        plain = self.run_ok("plain", "--data.partition=file", name)
        pathlib.Path(self.path("whose.txt")).write_bytes(("\ufeff" + whose.replace("\n", "\r\n")).encode())
        marked = self.run_ok("marked", "--data.partition=file", name)
        self.assertEqual(self.column(plain, "samples", "clients").tolist(), self.column(marked, "samples", "clients").tolist())
        pathlib.Path(self.path("whose.txt")).write_bytes(whose.encode("utf-16"))
        self.assert_refused(3, "text in UTF-16", "run", self.input, "--data.partition=file", name, "--overwrite")

    def test_a_damaged_file_of_clients_is_refused(self):
        for status, words, text in ((3, "599 lines, and synthetic has 600 training samples", "0\n" * 599),
                                    (3, "line 3 is 'two': write the number of a client, from 0", "0\n1\ntwo\n"),
                                    (3, "line 1 is '-1'", "-1\n" * 600), (3, "line 2 is ''", "0\n\n1\n"),
                                    (2, "more than the 3 clients", "0\n1\n2\n" * 200)):
            self.write("whose.txt", text)
            self.assert_refused(status, words, "run", self.input, "--data.partition=file", "--data.partition_file=whose.txt")
        self.assert_refused(3, "absent.txt is missing", "run", self.input, "--data.partition=file", "--data.partition_file=absent.txt")
        settings = ("--data.partition=file", "--data.partition_file=whose.txt", "--data.train_limit=250")
        for lines in (599, 601, 251, 249):
            self.write("whose.txt", "0\n" * lines)
            self.assert_refused(3, f"{lines} lines, and synthetic has 600 training samples, of which data.train_limit leaves 250",
                                "run", self.input, *settings)
        whose = [i * 5 // 7 % 7 for i in range(600)]
        for lines in (600, 250):
            self.write("whose.txt", "".join(f"{client}\n" for client in whose[:lines]))
            run = self.run_ok(f"cut{lines}", *settings, "--run.rounds=1")
            self.assertEqual(self.column(run, "samples", "clients").tolist(), [whose[:250].count(c) for c in range(7)])
        self.assert_refused(2, "needs data.partition_file", "run", self.input, "--data.partition=file")

    def test_check_shows_the_labels_of_each_client(self):
        whose = [min(6, i % 10) for i in range(600)]
        self.write("whose.txt", "".join(f"{client}\n" for client in whose))
        settings = ("--check", "-v", "--data.partition=file", "--data.partition_file=whose.txt")
        shown = self.espalier("run", self.input, *settings).stdout
        rows = [[int(n) for n in line.split()] for line in shown.split("labels ")[1].splitlines()[1:]]
        self.assertEqual([row[:2] for row in rows], [[c, whose.count(c)] for c in range(7)])
        for row in rows:
            self.assertEqual(sum(row[2:]), row[1])
        self.assertEqual([sum(row[2 + label] for row in rows) for label in range(10)], [60] * 10)
        self.assertNotIn("labels ", self.espalier("run", self.input, *settings[:1], *settings[2:]).stdout)
        many = self.espalier("run", self.input, "--check", "-v", "--data.synthetic_classes=20", "--clients.count=60", "--clients.fleet=").stdout
        self.assertRegex(many, r"labels +client +samples +classes +of the largest\n")
        self.assertIn("and 10 more clients\n", many)

    def test_a_table_with_names_of_classes_and_columns_to_skip(self):
        kinds = ["otter", "bee", "newt"]
        rows = [(f"it's {i}", i % 13, i * i % 7, kinds[(i * i + i // 9) % 3]) for i in range(210)]
        self.write("named.csv", "title,a,b,kind,when\n" + "".join(f"{t},{a},{b},{k},2026-01-0{1 + a % 9}\n" for t, a, b, k in rows))
        numbers = {"bee": 0, "newt": 1, "otter": 2}  # in the order of the names
        self.write("plain.csv", "a,b,kind\n" + "".join(f"{a},{b},{numbers[k]}\n" for _, a, b, k in rows))
        settings = ["--data.name=csv", f"--data.dir={self.folder.name}", "--data.partition=iid"]
        named = [*settings, "--data.file=named.csv", "--data.csv_label=kind"]
        skipping = [*named, "--data.csv_skip=title, when"]
        self.assert_equal_models(self.run_ok("plain", *settings, "--data.file=plain.csv"), self.run_ok("named", *skipping, ranks=2))
        self.assertIn("named.csv: bee = 0, newt = 1, otter = 2\n", self.espalier("run", self.input, *skipping, "--check").stdout)
        for status, words, more in ((3, "is not a finite number; data.csv_skip leaves columns out", named),
                                    (3, "210 different names of classes in 210 rows; choose the column",
                                     [*settings, "--data.file=named.csv", "--data.csv_label=title", "--data.csv_skip=kind,when"]),
                                    (2, "data.csv_skip = titel is not a column", [*named, "--data.csv_skip=titel"]),
                                    (2, "which is the column of the class", [*named, "--data.csv_skip=3"]),
                                    (2, "both name when", [*named, "--data.csv_text=title, when", "--data.csv_skip=a, when"]),
                                    (3, "names 3 classes, and data.classes = 2", [*skipping, "--data.classes=2"])):
            self.assert_refused(status, words, "run", self.input, *more, "--run.name=x")

    def test_a_table_of_texts_is_trained_on(self):
        words = ("mild", "rain", "Oslo", "sun", "dry", "Rome")
        rows = [f'"{words[i % 3]}, {words[i % 5]}";{"warm" if i % 3 == 0 else "cold"};{i}' for i in range(240)]
        self.write("data.csv", "\n".join(["note;class;id", *rows]) + "\n")
        settings = ("--data.name=csv", f"--data.dir={self.folder.name}", "--data.csv_separator=semicolon", "--data.csv_text=note",
                    "--data.csv_label=class", "--data.length=4", "--data.vocabulary=30", "--model.name=lstm", "--model.embed=6",
                    "--model.hidden=8")
        self.same_on_one_and_three(*settings, "--train.optimizer=adam", "--train.lr=0.02", "--run.rounds=8")
        run = self.path("runs", "one")
        self.assertGreater(self.column(run, "top1", "evaluations")[-1], 0.95)  # the first word says it all
        with h5py.File(self.checkpoint(run)) as file:
            self.assertIn(b"\nrain\n", file["data/words"][0])
        done = self.espalier("evaluate", self.checkpoint(run))
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_folder_of_texts_has_one_for_each_client(self):
        os.mkdir(self.path("authors"))
        sizes = [1000 + 130 * i for i in range(8)]
        for i, size in enumerate(sizes):
            self.write(f"authors/{'hgfedcba'[i]}.txt", "".join(chr(97 + (i * j + j // 7) % 26) for j in range(size)))
        settings = ("--data.name=text", f"--data.file={self.path('authors')}", "--data.length=12", "--model.name=gpt", "--model.depth=1",
                    "--model.embed=8", "--model.heads=2", "--data.partition=given")
        self.same_on_one_and_three(*settings)
        samples = self.column(self.path("runs", "one"), "samples", "clients")
        np.testing.assert_array_equal(samples, [(size * 9 // 10 - 1) // 12 for size in sizes[:0:-1]])
        self.assert_refused(2, "clients.count = 9 is more than the 8 clients", "run", self.input, *settings, "--run.name=more",
                            "--clients.count=9", "--clients.fleet=5*fast, 4*slow")
        self.assert_refused(2, "set data.file to a folder with a file NAME.txt for each client", "run", self.input, *settings,
                            "--run.name=one-file", f"--data.file={self.path('authors', 'a.txt')}")

    def test_a_checkpoint_is_evaluated_as_its_run_did(self):
        run = self.run_ok("a", "--checkpoint.every=1", "--checkpoint.keep=3", "--model.name=cnn", "--model.channels=4,8", "--model.features=16",
                          "--model.norm=batch", "--data.synthetic_noise=3")
        table = self.table(run, "evaluations")
        for version, loss, top1, top5 in zip(*(table[name] for name in ("version", "loss", "top1", "top5"))):
            checkpoint = os.path.join(run, "checkpoints", f"ckpt_{version:08}.h5")
            done = self.espalier("evaluate", checkpoint)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertRegex(done.stdout, rf"\Atest: samples=\d+ loss={loss:.4f} top1={top1:.4f} top5={top5:.4f}\n\Z")
        few = self.espalier("evaluate", checkpoint, "--data.test_limit=37").stdout
        self.assertIn("samples=37 ", few)
        for words, settings in (("another shape", ["--data.synthetic_shape=1,10,10"]), ("12 classes", ["--data.synthetic_classes=12"]),
                                ("takes options of the data", ["--train.lr=1"]), ("one checkpoint", [checkpoint]),
                                ("unknown option 'data.nam'", ["--data.nam=x"])):
            self.assert_refused(2, words, "evaluate", checkpoint, *settings)
        self.assert_refused(2, "name one of its checkpoints", "evaluate", run)
        self.assert_refused(2, "evaluate needs a checkpoint", "evaluate")

    def test_a_language_model_is_evaluated_in_perplexity(self):
        text = self.write("t.txt", "to be or not to be that is the question " * 60)
        run = self.run_ok("a", "--data.name=text", f"--data.file={text}", "--data.length=8", "--data.partition=iid",
                          "--model.name=gpt", "--model.embed=8", "--model.heads=2", "--model.depth=1")
        done = self.espalier("evaluate", self.checkpoint(run))
        self.assertIn(f" perplexity={self.column(run, 'perplexity', 'evaluations')[-1]:.4f}\n", done.stdout)

    def test_check_predicts_the_bytes_of_first_tasks(self):
        for name, settings in (("half", ["--method.name=heterofl", "--method.widths=0.8,0.3"]), ("all", []),
                               ("frozen", ["--train.freeze=fc1*"])):
            with self.subTest(name):
                checked = self.espalier("run", self.input, "--check", *settings).stdout.splitlines()
                head = next(i for i, line in enumerate(checked) if " device " in line)
                self.assertEqual(checked[head].split()[-2:], ["down", "up"])
                said = {}
                for line in checked[head + 1:]:
                    words = line.split()
                    if len(words) < 9 or words[0] not in ("fast", "slow"):
                        break
                    said.setdefault(words[0], set()).add((float(words[-4]), float(words[-2])))
                run = self.run_ok(name, "--run.rounds=1", *settings)
                tasks = self.table(run)
                made = {}
                for client, down, up in zip(tasks["client"], tasks["bytes_down"], tasks["bytes_up"]):
                    made.setdefault("fast" if client < 3 else "slow", set()).add((down, up))
                for device in ("fast", "slow"):
                    self.assertEqual(len(said[device]), len(made[device]))
                    for (d1, u1), (d2, u2) in zip(sorted(said[device]), sorted(made[device])):
                        self.assertAlmostEqual(d1, d2 * 1e-6, delta=6e-6 if d2 < 1e5 else 6e-5)
                        self.assertAlmostEqual(u1, u2 * 1e-6, delta=6e-6 if u2 < 1e5 else 6e-5)

    def test_info_lists_columns_with_units(self):
        run = self.run_ok("a", "--run.rounds=1")
        shown = self.espalier("info", os.path.join(run, "run.h5")).stdout
        with h5py.File(os.path.join(run, "run.h5")) as file:
            for table in ("rounds", "tasks", "evaluations", "clients"):
                listed = re.search(rf"(?m)^/{table} .* columns\n((?: {{16}}.*\n)+)", shown)[1].replace("\n", " ")
                listed = [re.fullmatch(r"(\w+)(?: \[(.*)\])?", word.strip()).groups() for word in listed.split(",")]
                units = {name: column.attrs["units"] for name, column in file[table].items()}
                units = {name: unit.decode() if isinstance(unit, bytes) else unit for name, unit in units.items()}
                self.assertEqual(dict(listed), {name: None if unit in ("", "1") else unit for name, unit in units.items()})

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
                self.assertEqual(refused.returncode, 2)
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
        self.assertEqual(refused.returncode, 3)
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
        self.assertEqual(refused.returncode, 3)
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

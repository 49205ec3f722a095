"""Every model family on every source of data: --check and the run both accept the pair, or both refuse it with one sentence."""

import concurrent.futures
import json
import os
import struct
import sys
import unittest

import h5py
import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from support import ProgramTest  # noqa: E402

TRANSFORMER = ["--model.depth=1", "--model.embed=12", "--model.heads=2"]
FAMILIES = {
    "mlp": ["--model.hidden=6"],
    "lenet": [],
    "cnn": ["--model.channels=3,4", "--model.kernel=3", "--model.features=5"],
    "cnn1d": ["--model.channels=4", "--model.first_kernel=2", "--model.first_stride=1", "--model.pool=1"],
    "vgg": ["--model.width=4"],
    "resnet": ["--model.width=4"],
    "vit": [*TRANSFORMER, "--model.patch=7"],
    "gpt": TRANSFORMER,
    "encoder": TRANSFORMER,
    "lstm": ["--model.embed=3", "--model.hidden=5"],
}
IMAGES, NUMBERS = ({"mlp", "lenet", "cnn", "vgg", "resnet", "vit"}, {"mlp"})
TEXTS, NEXT = ({"encoder", "lstm"}, {"gpt", "lstm"})
SIGNALS = {"cnn1d"}  # arrays and tables become signals for them


class Pairs(ProgramTest):
    def sources(self):
        """Settings of each source, and the families that accept it."""
        draw = np.random.default_rng(3)
        labels = np.arange(40) % 4

        def arrays(name, x):
            os.makedirs(self.path(name))
            np.save(self.path(name, "x.npy"), x)
            np.save(self.path(name, "y.npy"), labels)
            return ["--data.name=arrays", f"--data.dir={self.path(name)}"]

        def synthetic(shape, *more):
            return ["--data.name=synthetic", "--data.synthetic_samples=40", f"--data.synthetic_shape={shape}", *more]

        with h5py.File(self.path("table.h5"), "w") as file:
            file["x"], file["y"] = draw.normal(size=(40, 14, 14)).astype("f8"), labels
        rows = [f"{a:.3f},{b:.3f},{c}" for a, b, c in zip(draw.normal(size=40), draw.normal(size=40), labels)]
        self.write("table.csv", "\n".join(["a,b,class", *rows]) + "\n")
        self.write("tale.txt", "the quick brown fox jumps over the lazy dog\n" * 20)
        pixels = struct.pack(">IIII", 0x803, 40, 28, 28) + draw.integers(0, 256, 40 * 784).astype(np.uint8).tobytes()
        for part in ("train", "t10k"):
            for kind, content in (("images-idx3", pixels), ("labels-idx1", struct.pack(">II", 0x801, 40)
                                                            + labels.astype(np.uint8).tobytes())):
                with open(self.path(f"{part}-{kind}-ubyte"), "wb") as file:
                    file.write(content)
        speech = "to be or not to be that is the question " * 3
        texts = {"x": [speech[i:i + 8] for i in range(80)], "y": list(speech[8:88])}
        pictures = {"x": draw.uniform(size=(20, 196)).round(3).tolist(), "y": labels[:20].tolist()}
        for name, of_user in (("texts", texts), ("pictures", pictures)):
            self.write(f"{name}.json", json.dumps({"users": ["a", "b"], "user_data": {"b": of_user, "a": of_user}}))
        here = f"--data.dir={self.folder.name}"
        text = ["--data.name=text", here, "--data.file=tale.txt", "--data.length=8"]
        return {
            "idx images": (["--data.name=mnist", here], IMAGES),
            "images of bytes": (arrays("bytes", draw.integers(0, 256, (40, 3, 14, 14)).astype(np.uint8)), IMAGES),
            "channels last": (arrays("last", draw.normal(size=(40, 28, 28, 3)).astype("f4")), NUMBERS),
            "flat": (arrays("flat", draw.normal(size=(40, 9)).astype("f4")), NUMBERS | SIGNALS),
            "four dimensions": (arrays("deep", draw.normal(size=(40, 2, 3, 4, 5)).astype("f4")), NUMBERS),
            "matrices in HDF5": (["--data.name=arrays", here, "--data.file=table.h5"], IMAGES | SIGNALS),
            "integers": (arrays("int64", draw.integers(0, 9, (40, 6))), NUMBERS | TEXTS | SIGNALS),
            "a table": (["--data.name=csv", here, "--data.file=table.csv"], NUMBERS | SIGNALS),
            "made signals": (synthetic("3,20"), NUMBERS | SIGNALS),
            "LEAF's texts": (["--data.name=leaf", here, "--data.file=texts.json", "--data.test_share=0.2"], TEXTS | NEXT),
            "LEAF's texts, every": (["--data.name=leaf", here, "--data.file=texts.json", "--data.test_share=0.2",
                                     "--data.leaf_labels=every"], NEXT),
            "LEAF's texts, last": (["--data.name=leaf", here, "--data.file=texts.json", "--data.test_share=0.2",
                                    "--data.leaf_labels=last"], TEXTS),
            "LEAF's images": (["--data.name=leaf", here, "--data.file=pictures.json"], IMAGES | SIGNALS),
            "made texts": (synthetic("6", "--data.synthetic_vocabulary=9"), TEXTS),
            "made chains": (synthetic("6", "--data.synthetic_vocabulary=9", "--data.synthetic_labels=next_token"), NEXT),
            "bytes of a text": (text, NEXT),
        }

    def one(self, name, family, settings):
        words = ["run", self.bare, f"--run.name={name}-{family}".replace(" ", "-").replace("'", ""), f"--model.name={family}",
                 *FAMILIES[family], *settings]
        return self.espalier(*words, "--check"), self.espalier(*words)

    def test_are_accepted_by_check_and_run_or_refused_by_both(self):
        self.bare = self.write("bare.ini", "[run]\nrounds = 1\n[clients]\ncount = 2\n[train]\nbatch = 10\nsteps = 1\n")
        sources = self.sources()
        pairs = [(name, family) for name in sources for family in FAMILIES]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            ended = list(pool.map(lambda pair: self.one(*pair, sources[pair[0]][0]), pairs))
        for (name, family), (check, run) in zip(pairs, ended):
            with self.subTest(source=name, family=family):
                expected = 0 if family in sources[name][1] else 2
                self.assertEqual(run.returncode, expected, run.stdout + run.stderr)
                self.assertEqual(check.returncode, run.returncode, check.stderr + run.stderr)
                if run.returncode == 0:
                    continue
                self.assertEqual(check.stderr, run.stderr)
                self.assertEqual(len(run.stderr.splitlines()), 1, run.stderr)
                self.assertIn(f"model.name = {family} is for", run.stderr)
                self.assertRegex(run.stderr, "; (take|store)")
                self.assertFalse(os.path.exists(self.path("runs", f"{name}-{family}".replace(" ", "-").replace("'", ""))))
        last = dict(zip(pairs, ended))[("channels last", "cnn")][1].stderr
        self.assertIn("channels come first, and samples of the shape 28x28x3 have them last; store them as 3x28x28", last)


if __name__ == "__main__":
    unittest.main()

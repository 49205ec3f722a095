"""Export of weights from a checkpoint and import into a new run, compared with the safetensors package."""

import os
import struct
import unittest

import h5py
import numpy
import safetensors
import safetensors.numpy

from support import ProgramTest, read_bytes, replace_in_header, write_bytes

try:
    import foreign
    import torch
    NO_TORCH = ""
except ImportError as error:
    NO_TORCH = f"PyTorch cannot be imported: {error}"

MODEL = ("--model.name=lenet", "--model.norm=batch")


class WeightsTest(ProgramTest):
    def trained(self):
        """The checkpoint of a run that trained a model with statistics."""
        return self.checkpoint(self.run_ok("trained", "--run.rounds=1", *MODEL))

    def exported(self, checkpoint, name="out.safetensors", *flags):
        done = self.espalier("export", checkpoint, self.path(name), *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.path(name)

    def untouched(self, name, weights, *settings):
        """A run from `weights` that keeps them: a learning rate of 0. Returns the final model."""
        run = self.run_ok(name, "--run.rounds=1", "--train.lr=0", f"--model.init={weights}", *MODEL,
                          *settings)
        return self.model(self.checkpoint(run))

    def model(self, checkpoint):
        with h5py.File(checkpoint) as file:
            return {name: values[()] for name, values in file["model"].items()}

    def assert_models_equal(self, a, b, statistics=True):
        self.assertEqual(a.keys(), b.keys())
        for name in a:
            if statistics or "running" not in name:
                self.assertEqual(a[name].tobytes(), b[name].tobytes(), name)

    def test_the_package_reads_what_export_writes(self):
        checkpoint = self.trained()
        tensors = safetensors.numpy.load_file(self.exported(checkpoint))
        self.assert_models_equal({name: values.ravel() for name, values in tensors.items()},
                                 self.model(checkpoint))
        self.assertEqual(tensors["conv2.weight"].shape, (16, 6, 5, 5))
        self.assertEqual(tensors["norm1.running_mean"].shape, (6,))
        with safetensors.safe_open(self.path("out.safetensors"), "numpy") as file:
            self.assertEqual(file.metadata()["format"], "pt")

    def test_a_round_trip_keeps_every_bit(self):
        checkpoint = self.trained()
        model = self.model(checkpoint)
        out = self.exported(checkpoint)
        # Statistics are computed again for the same weights and the same samples.
        self.assert_models_equal(self.untouched("from-file", out), model)
        self.assert_models_equal(self.untouched("from-checkpoint", checkpoint), model)
        self.assertEqual(read_bytes(self.exported(checkpoint, "again.safetensors")), read_bytes(out))

    def test_the_start_is_the_same_on_any_number_of_ranks(self):
        out = self.exported(self.trained())
        runs = [self.run_ok(f"on-{n}", f"--model.init={out}", *MODEL, ranks=n) for n in (1, 3)]
        self.assert_same(*runs)

    def test_halves_doubles_and_brain_floats_are_converted(self):
        tensors = safetensors.numpy.load_file(self.exported(self.trained()))
        for kind in ("float16", "float64", "bfloat16"):
            stored, expected = {}, {}
            for name, values in tensors.items():
                if kind == "bfloat16":  # NumPy has no such type; it is the upper half of a float
                    converted = (values.view(numpy.uint32) >> 16).astype(numpy.uint16)
                    expected[name] = (converted.astype(numpy.uint32) << 16).view(numpy.float32)
                else:
                    converted = values.astype(kind)
                    expected[name] = converted.astype(numpy.float32)
                stored["module." + name] = converted
            path = self.path(kind + ".safetensors")
            safetensors.numpy.save_file(stored, path)
            if kind == "bfloat16":
                replace_in_header(path, b'"U16"', b'"BF16"')
            got = self.untouched("from-" + kind, path)
            self.assert_models_equal({name: values.ravel() for name, values in expected.items()},
                                     got, statistics=False)

    def test_a_new_head_needs_init_partial(self):
        tensors = safetensors.numpy.load_file(self.exported(self.trained()))
        head = {name: tensors.pop(name) for name in ("fc3.weight", "fc3.bias")}
        path = self.path("headless.safetensors")
        safetensors.numpy.save_file(tensors, path)
        common = ("run", self.input, "--run.name=new", "--train.lr=0", "--run.rounds=1", *MODEL,
                  f"--model.init={path}")
        self.assert_refused(3, "it lacks fc3.weight, fc3.bias", *common)
        self.assertFalse(os.path.exists(self.path("runs", "new")))
        got = self.untouched("part", path, "--model.init_partial=true")
        drawn = self.model(self.checkpoint(
            self.run_ok("drawn", "--train.lr=0", "--run.rounds=1", *MODEL)))
        self.assertEqual(got["fc2.weight"].tobytes(), tensors["fc2.weight"].tobytes())
        for name in head:
            self.assertEqual(got[name].tobytes(), drawn[name].tobytes())

    def test_weights_that_do_not_fit_are_refused_before_anything_is_written(self):
        checkpoint = self.trained()
        out = self.exported(checkpoint)
        common = ("run", self.input, "--run.name=bad", "--model.name=lenet")
        self.assert_refused(3, "the model has no norm1.weight", *common, f"--model.init={out}")
        self.assert_refused(3, "the model has no norm1.weight", *common,
                            f"--model.init={checkpoint}", ranks=2)
        self.assert_refused(3, "instead of [32, 1, 5, 5]", *common, "--model.norm=batch",
                            f"--model.init={out}", "--model.name=cnn")
        self.assert_refused(3, "No such file", *common, "--model.init=absent.safetensors")
        self.assert_refused(3, "there is no checkpoint", *common, "--model.init=absent.h5")
        self.assert_refused(2, "model.init = absent does not exist: give a .safetensors file, a folder", *common, "--model.init=absent")
        self.write("weights.bin", "weights")
        self.assert_refused(2, "model.init = weights.bin is no file of weights", *common, "--model.init=weights.bin")
        write_bytes(out, struct.pack("<Q", 1 << 60) + read_bytes(out)[8:])
        self.assert_refused(3, "its header would have", *common, f"--model.init={out}", "--check")
        self.assertFalse(os.path.exists(self.path("runs", "bad")))

    def test_options_that_no_shape_tells_are_named_if_they_differ_from_the_checkpoints(self):
        own = ("--data.synthetic_vocabulary=20", "--data.synthetic_labels=next_token", "--data.length=6", "--model.name=gpt",
               "--model.embed=24", "--model.depth=1", "--model.heads=2", "--model.positions=rotary", "--model.adapter_rank=2",
               "--model.adapter_alpha=6", "--data.partition=iid")
        checkpoint = self.checkpoint(self.run_ok("first", *own, "--run.rounds=1"))
        for settings, words in (((), ""),
                                (("--model.heads=4",), "model.heads = 2 there, 4 here"),
                                (("--model.rotary_base=77", "--model.adapter_alpha=3"),
                                 "model.rotary_base = 10000 there, 77 here; model.adapter_alpha = 6 there, 3 here"),
                                (("--model.norm_epsilon=0.25", "--model.init_partial=true", "--model.adapter_rank=0"),
                                 "model.norm_epsilon = 0 there, 0.25 here")):
            done = self.espalier("run", self.input, "--run.name=next", "--overwrite", *own, *settings, f"--model.init={checkpoint}",
                                 "--run.rounds=0")
            self.assertEqual(done.returncode, 0, done.stderr)
            warned = [line for line in done.stderr.splitlines() if "are another function" in line]
            self.assertEqual(len(warned), 1 if words else 0, done.stderr)
            self.assertTrue(not words or warned[0].endswith(": " + words), warned)

    def test_export_refuses_what_it_cannot_do(self):
        checkpoint = self.trained()
        out = self.exported(checkpoint)
        self.assert_refused(2, "exists", "export", checkpoint, out)
        self.exported(checkpoint, "out.safetensors", "--overwrite")
        self.assert_refused(2, "export needs two files", "export", checkpoint)
        self.assert_refused(2, "export writes a file whose name ends in .safetensors", "export", checkpoint, "out.bin")
        self.assert_refused(4, "there is no checkpoint", "export", "absent.h5", "x.safetensors")
        self.assert_refused(4, "run.h5", "export", self.path("runs", "trained", "run.h5"),
                            "x.safetensors")
        self.assert_refused(4, "cannot write", "export", checkpoint, "absent/x.safetensors")


REAL_DATA = os.environ.get("ESPALIER_DATA", "")

# Settings of every run below, which is killed at the fourth merge.
EXPORTED = """
[run]
rounds = 4
[clients]
count = 2
[checkpoint]
every = 1
keep = 9
[train]
batch = 8
[record]
evaluate_batch = 32
"""


class StatisticsTest(ProgramTest):
    """Norm statistics in checkpoints, and in files for model.init."""

    COMMON = (*MODEL, "--data.name=digits", "--data.train_limit=101", "--data.test_limit=60", "--clients.count=3",
              "--clients.fleet=")
    COUNT = 5

    def model(self, run, version):
        with h5py.File(os.path.join(run, "checkpoints", f"ckpt_{version:08}.h5")) as file:
            return {name: values[()].tobytes() for name, values in file["model"].items()}

    def test_each_checkpoint_has_those_of_its_version(self):
        every = ("--checkpoint.every=1", "--checkpoint.keep=9", f"--run.rounds={self.COUNT}", *self.COMMON)
        all_evaluated = self.run_ok("all", *every)
        few = self.run_ok("few", *every, "--record.evaluate_every=4", ranks=3)
        killed = self.espalier("run", self.input, "--run.name=killed", *every, "--record.evaluate_every=4",
                               env={"ESPALIER_KILL_AT": "round.merged:4"})
        self.assertEqual(killed.returncode, -9, killed.stderr)
        resumed = self.run_ok("killed", *every, "--record.evaluate_every=4")
        for version in range(1, self.COUNT + 1):
            model = self.model(all_evaluated, version)
            variances = numpy.frombuffer(model["norm3.running_var"], numpy.float32)
            self.assertFalse((variances == 1).any())
            for run in (few, resumed):
                self.assertEqual(self.model(run, version), model, f"{run} {version}")
        self.assertNotEqual(self.model(few, 1)["norm1.running_mean"], self.model(few, 2)["norm1.running_mean"])
        self.assertEqual(list(self.column(few, "version", "evaluations")), [4, 5])

    @unittest.skipIf(NO_TORCH, NO_TORCH)
    def test_they_cover_all_samples_if_batches_differ_in_size(self):
        # A single client has the samples in their order.
        run = self.run_ok("uneven", "--run.rounds=2", "--record.evaluate_batch=100", *self.COMMON, "--clients.count=1")
        with h5py.File(self.checkpoint(run)) as file:
            form = {name: value[()] for name, value in file["data"].items()}
            stored = {name: value[()] for name, value in file["model"].items()}
        net = foreign.LeNet()
        shapes = net.state_dict()
        net.load_state_dict({name: torch.from_numpy(values).reshape(shapes[name].shape)
                             for name, values in stored.items()}, strict=False)
        seen = {}
        for name, module in net.named_modules():
            if name.startswith("norm"):
                module.register_forward_pre_hook(
                    lambda _, inputs, name=name: seen.setdefault(name, []).append(inputs[0].detach()))
        folder = os.path.join(os.environ["ESPALIER_INPUTS"], "digits")
        ending = ".gz" if os.path.exists(os.path.join(folder, "train-labels-idx1-ubyte.gz")) else ""
        images = foreign.idx(os.path.join(folder, "train-images-idx3-ubyte" + ending))[:101, None]
        images = torch.from_numpy(foreign.normalised(images, form))
        net = net.double().train()
        for part in (images[:50], images[50:]):  # two batches of equal size
            net(part)
        for name, inputs in seen.items():
            values = torch.cat(inputs).transpose(0, 1).flatten(1)
            for what, right in (("mean", values.mean(1)), ("var", values.var(1))):
                numpy.testing.assert_allclose(stored[f"{name}.running_{what}"], right.numpy(), rtol=2e-5, atol=2e-6)

    def test_a_run_that_is_stopped_has_them_or_says_that_it_has_none(self):
        common = ("run", self.input, "--run.rounds=1000000", "--wall=00:00:01")
        done = self.espalier(*common, "--run.name=stopped", *self.COMMON)
        self.assertEqual(done.returncode, 85, done.stdout + done.stderr)
        checkpoint = self.checkpoint(self.path("runs", "stopped"))
        version = int(checkpoint[-11:-3])
        model = self.model(self.path("runs", "stopped"), version)
        if (numpy.frombuffer(model["norm3.running_var"], numpy.float32) == 1).all():  # a busy machine
            self.assert_refused(4, "has no norm statistics", "export", checkpoint, "out.safetensors")
        elif version > 0:
            straight = self.run_ok("straight", f"--run.rounds={version}", *self.COMMON)
            self.assertEqual(model, self.model(straight, version))

        # 5,000 samples through this network take longer than the server waits at a stop.
        done = self.espalier(*common, "--run.name=large", "--data.name=digits", "--data.calibration=5000",
                             "--model.name=cnn", "--model.norm=batch", "--model.channels=64,256", "--clients.fleet=",
                             "--clients.count=100", "--clients.per_round=1", "--record.evaluate_every=1000",
                             "--checkpoint.every=0")
        self.assertEqual(done.returncode, 85, done.stdout + done.stderr)
        checkpoint = self.checkpoint(self.path("runs", "large"))
        self.assert_refused(4, "has no norm statistics", "export", checkpoint, "out.safetensors")
        self.assertFalse(os.path.exists(self.path("out.safetensors")))

    def test_version_0_is_evaluated_with_those_that_it_starts_from(self):
        first = self.run_ok("first", "--run.rounds=3", *self.COMMON)
        out = self.path("first.safetensors")
        self.assertEqual(self.espalier("export", self.checkpoint(first), out).returncode, 0)
        tensors = {name: values for name, values in safetensors.numpy.load_file(out).items() if "running" not in name}
        bare = self.path("bare.safetensors")
        safetensors.numpy.save_file(tensors, bare)
        right = self.column(first, "loss", "evaluations")[-1]
        for ranks, weights, own in ((1, out, True), (3, self.checkpoint(first), True), (1, bare, False)):
            name = f"{ranks}-{own}"
            # Other samples for the statistics of version 1; the weights do not change.
            run = self.run_ok(name, f"--model.init={weights}", "--record.evaluate_first=true", "--run.rounds=1",
                              "--train.lr=0", *self.COMMON, "--data.train_limit=400", ranks=ranks)
            self.assertEqual(list(self.column(run, "version", "evaluations")), [0, 1])
            self.assertEqual(self.column(run, "virtual_time_s", "evaluations")[0], 0)
            losses = self.column(run, "loss", "evaluations")
            self.assertEqual(losses[0] == right, own)
            self.assertEqual(losses[0] == losses[1], not own)

    def test_a_target_that_version_0_reaches_needs_no_training(self):
        first = self.run_ok("good", "--run.rounds=12", *self.COMMON)
        run = self.run_ok("none", f"--model.init={self.checkpoint(first)}", "--record.evaluate_first=true",
                          "--run.target_accuracy=0.05", *self.COMMON)
        self.assertEqual(list(self.column(run, "version", "evaluations")), [0])
        self.assertEqual(len(self.column(run, "round", "rounds")), 0)


@unittest.skipIf(NO_TORCH, NO_TORCH)
class ExportTest(ProgramTest):
    """For each source of data: the exported weights in a PyTorch module give the recorded loss on test data that
    NumPy read."""

    def setUp(self):
        super().setUp()
        self.input = self.write("exported.ini", EXPORTED)
        os.mkdir(self.path("data"))

    def killed_and_resumed(self, *settings):
        command = ("run", self.input, "--run.name=run", *settings)
        killed = self.espalier(*command, env={"ESPALIER_KILL_AT": "round.merged:4"})
        self.assertEqual(killed.returncode, -9, killed.stdout + killed.stderr)
        before = sorted(os.listdir(self.path("runs", "run", "checkpoints")))
        self.assertIn("ckpt_00000001.h5", before)
        self.assertNotIn("ckpt_00000004.h5", before)
        return self.run_ok("run", *settings)

    def check(self, net, test_data, *settings):
        """`test_data(form)`: inputs and labels, from the group "data" of a checkpoint."""
        run = self.killed_and_resumed(*settings)
        os.rename(self.path("data"), self.path("gone"))  # export needs the checkpoint alone
        evaluations = self.table(run, "evaluations")
        for version in (1, 4):
            checkpoint = os.path.join(run, "checkpoints", f"ckpt_{version:08}.h5")
            out = self.path(f"{version}.safetensors")
            done = self.espalier("export", checkpoint, out)
            self.assertEqual(done.returncode, 0, done.stderr)
            state = {name: torch.from_numpy(values)
                     for name, values in safetensors.numpy.load_file(out).items()}
            with h5py.File(checkpoint) as file:
                form = {name: value[()] for name, value in file["data"].items()}
            os.rename(self.path("gone"), self.path("data"))
            inputs, labels = test_data(form)
            os.rename(self.path("data"), self.path("gone"))
            self.assertEqual(list(form["sample_shape"]), list(inputs.shape[1:]))
            loss = foreign.mean_loss(foreign.loaded(net, state), inputs, labels)
            recorded = evaluations["loss"][evaluations["version"] == version]
            self.assertEqual(len(recorded), 1)
            self.assertLess(abs(loss / recorded[0] - 1), 1e-5, f"version {version}: {loss} {recorded}")

    def idx_test(self, folder, prefix, ending, limit):
        def read(form):
            images = foreign.idx(os.path.join(folder, f"{prefix}-images-idx3-ubyte{ending}"))[:limit]
            labels = foreign.idx(os.path.join(folder, f"{prefix}-labels-idx1-ubyte{ending}"))[:limit]
            return foreign.normalised(images[:, None], form), labels.astype(numpy.int64)
        return read

    def test_digits(self):
        folder = os.path.join(os.environ["ESPALIER_INPUTS"], "digits")
        ending = ".gz" if os.path.exists(os.path.join(folder, "t10k-labels-idx1-ubyte.gz")) else ""
        self.check(foreign.LeNet(), self.idx_test(folder, "t10k", ending, 90), *MODEL,
                   "--data.train_limit=130", "--data.test_limit=90")

    @unittest.skipUnless(os.path.isdir(os.path.join(REAL_DATA, "mnist")), "ESPALIER_DATA has no mnist")
    def test_mnist(self):
        folder = os.path.join(REAL_DATA, "mnist")
        self.check(foreign.Cnn(1, (4, 6), 10, 10, 28), self.idx_test(folder, "t10k", ".gz", 70),
                   "--data.name=mnist", "--model.name=cnn", "--model.norm=batch", "--model.channels=4,6",
                   "--model.features=10", "--data.train_limit=70", "--data.test_limit=70")

    @unittest.skipUnless(os.path.isdir(os.path.join(REAL_DATA, "cifar-10-batches-bin")),
                         "ESPALIER_DATA has no CIFAR-10")
    def test_cifar10(self):
        def read(form):
            images, labels = foreign.cifar10(os.path.join(REAL_DATA, "cifar-10-batches-bin", "test_batch.bin"))
            return foreign.normalised(images[:45], form), labels[:45]
        self.check(foreign.ResNet18(4, 10), read, "--data.name=cifar10", "--model.name=resnet", "--model.width=4",
                   "--data.train_limit=66", "--data.test_limit=45")

    def images_test(self, net, *settings):
        """On uint8 images of 32 x 32 pixels, drawn at random."""
        random = numpy.random.default_rng(11)
        images, labels = random.integers(0, 256, (60, 3, 32, 32), numpy.uint8), numpy.arange(60) % 10
        for name, values in (("x", images), ("y", labels), ("split", numpy.arange(60) // 40)):
            numpy.save(self.path("data", name + ".npy"), values)
        self.check(net, lambda form: (foreign.normalised(images[40:], form), labels[40:]), "--data.name=arrays", "--data.file=data",
                   *settings)

    def test_vgg(self):
        self.images_test(foreign.Vgg11(4, 10), "--model.name=vgg", "--model.width=4")

    def signals_test(self, x, net, *settings):
        """On integers, of which no file says that they are signals."""
        labels = numpy.arange(60) % 4
        for name, values in (("x", x), ("y", labels), ("split", numpy.arange(60) // 40)):
            numpy.save(self.path("data", name + ".npy"), values)
        x = x.reshape(60, -1, x.shape[-1])

        def read(form):
            self.assertEqual(form["unit"], 1)  # bytes of signals are no pixels
            numpy.testing.assert_allclose(form["mean"], x[:40].mean((0, 2)), rtol=1e-9)
            return foreign.normalised(x[40:], form), labels[40:]
        self.check(net, read, "--data.name=arrays", "--data.file=data", "--data.normalise=computed", "--model.name=cnn1d",
                   *settings)

    def test_signals_of_one_channel(self):
        x = numpy.random.default_rng(12).integers(-20000, 20000, (60, 900)).astype(numpy.int16)
        self.signals_test(x, foreign.Cnn1d(1, (5, 6, 7), 30, 4, 3, 4), "--model.channels=5,6,7", "--model.first_kernel=30",
                          "--model.first_stride=4", "--model.pool=3")

    def test_signals_of_bytes(self):
        x = numpy.random.default_rng(13).integers(0, 256, (60, 3, 80), numpy.uint8)
        self.signals_test(x, foreign.Cnn1d(3, (5, 6), 7, 1, 2, 4), "--model.channels=5,6", "--model.first_kernel=7",
                          "--model.first_stride=1", "--model.pool=2")

    def test_vit(self):
        self.images_test(foreign.Vit(32, 8, 12, 3, 2, 10, mean=False), "--model.name=vit", "--model.patch=8", "--model.embed=12",
                         "--model.depth=2")

    def test_vit_with_the_mean(self):
        self.images_test(foreign.Vit(32, 8, 12, 3, 2, 10, mean=True), "--model.name=vit", "--model.patch=8", "--model.embed=12",
                         "--model.depth=2", "--model.pooling=mean")

    def test_synthetic(self):
        self.check(foreign.Mlp(6, (9, 7), 3), lambda form: foreign.synthetic_test(3, 6, 3, 25, 0.5),
                   "--data.name=synthetic", "--data.synthetic_shape=6", "--data.synthetic_classes=3", "--run.seed=3",
                   "--data.synthetic_samples=125", "--data.synthetic_noise=0.5", "--model.name=mlp",
                   "--model.hidden=9,7", "--model.norm=batch")

    def test_arrays_of_bytes_in_npy_files(self):
        random = numpy.random.default_rng(5)
        labels = random.integers(0, 3, 150)
        images = random.integers(0, 200, (150, 2, 8, 8)) + 20 * labels[:, None, None, None]
        split = (random.random(150) < 0.3).astype(numpy.int64)
        for name, values in (("x", images.astype(numpy.uint8)), ("y", labels), ("split", split)):
            numpy.save(self.path("data", name + ".npy"), values)

        def read(form):
            train = images[split == 0] / 255
            numpy.testing.assert_allclose(form["mean"], train.mean((0, 2, 3)), rtol=1e-12)
            numpy.testing.assert_allclose(form["deviation"], train.std((0, 2, 3)), rtol=1e-12)
            return foreign.normalised(images[split == 1], form), labels[split == 1]
        self.check(foreign.Cnn(2, (3, 5), 8, 3, 8), read, "--data.name=arrays", "--data.dir=data",
                   "--data.normalise=computed", "--model.name=cnn", "--model.norm=batch", "--model.channels=3,5",
                   "--model.features=8")

    def test_arrays_of_floats_in_hdf5(self):
        random = numpy.random.default_rng(6)
        labels = random.integers(0, 4, 120)
        values = (random.normal(size=(120, 5)) + labels[:, None]).astype(numpy.float32)
        split = (numpy.arange(120) % 3 == 0).astype(numpy.uint8)
        with h5py.File(self.path("data", "arrays.h5"), "w") as file:
            file["x"], file["y"], file["split"] = values, labels, split

        def read(form):
            self.assertEqual((form["unit"], form["classes"], len(form["mean"])), (1, 4, 0))
            return values[split == 1], labels[split == 1]
        self.check(foreign.Mlp(5, (11,), 4), read, "--data.name=arrays", "--data.dir=data", "--model.name=mlp",
                   "--model.hidden=11", "--model.norm=batch")

    def test_csv(self):
        random = numpy.random.default_rng(7)
        tables = {}
        for name, rows in (("train", 90), ("test", 41)):
            labels = random.integers(0, 2, rows)
            values = random.normal(size=(rows, 4)) * [1, 10, 100, 0.1] + labels[:, None]
            with open(self.path("data", name + ".csv"), "w") as file:
                file.write("a,b,c,d,class\n")
                for row, label in zip(values, labels):
                    file.write(",".join(map(repr, map(float, row))) + f",{label}\n")
            tables[name] = values, labels

        def read(form):
            numpy.testing.assert_allclose(form["mean"], tables["train"][0].mean(0, dtype=float), rtol=1e-12)
            return foreign.normalised(tables["test"][0], form), tables["test"][1]
        own = ("--data.name=csv", "--data.dir=data", "--data.file=train.csv", "--data.test_file=test.csv",
               "--data.normalise=computed", "--model.name=mlp", "--model.hidden=12", "--model.norm=batch")
        self.check(foreign.Mlp(4, (12,), 2), read, *own)
        os.rename(self.path("gone"), self.path("data"))
        self.run_ok("from-it", f"--model.init={self.checkpoint(self.path('runs', 'run'))}", *own)

    def sentences(self, random, count):
        words = ["".join(random.choice(list("abcdefgh"), random.integers(2, 6))) for _ in range(40)]
        chosen = [words[min(39, int(random.exponential(8)))] for _ in range(count)]
        return " ".join(word + random.choice(["", "", ".", ","]) for word in chosen)

    TEXT = ("--data.name=text", "--data.dir=data", "--data.file=text.txt", "--data.length=12", "--data.train_limit=60")
    GPT = (*TEXT, "--model.name=gpt", "--model.embed=16", "--model.heads=2", "--model.depth=2")

    def bytes_test(self, net, *settings):
        text = self.sentences(numpy.random.default_rng(8), 900)
        self.write("data/text.txt", text)
        rest = text.encode()[len(text) - len(text) // 10:]
        self.check(net, lambda form: foreign.windows(list(rest), 12), *settings)

    def test_text_of_bytes(self):
        self.bytes_test(foreign.Transformer(256, 12, 16, 2, 2, gpt=True), *self.GPT)

    def test_text_of_bytes_with_lstm(self):
        self.bytes_test(foreign.Lstm(256, 6, 14, 2, 256, every=True), *self.TEXT, "--model.name=lstm", "--model.embed=6",
                        "--model.hidden=14")

    def test_text_of_words(self):
        text = self.sentences(numpy.random.default_rng(9), 1200)
        self.write("data/text.txt", text)
        words = foreign.words_of(text)

        def read(form):
            vocabulary = form["words"][0].decode().split("\n")
            self.assertEqual(len(vocabulary), 25)
            self.assertEqual(vocabulary[2], max(vocabulary[2:], key=words[:len(words) - len(words) // 10].count))
            return foreign.windows(foreign.encoded(words[len(words) - len(words) // 10:], vocabulary), 12)
        self.check(foreign.Transformer(25, 12, 16, 2, 2, gpt=True), read, *self.GPT, "--data.tokens=words",
                   "--data.vocabulary=25")

    def news_test(self, net, *settings):
        random = numpy.random.default_rng(10)
        for name, rows in (("train", 70), ("test", 33)):
            lines = [f'"{i % 4 + 1}","{self.sentences(random, 3)}","{self.sentences(random, 6)}"\n'
                     for i in range(rows)]
            self.write(f"data/{name}.csv", "".join(lines))

        def read(form):
            vocabulary = form["words"][0].decode().split("\n")
            self.assertEqual(form["vocabulary"], 30)
            return foreign.ag_news(self.path("data", "test.csv"), 8, vocabulary)
        self.check(net, read, "--data.name=agnews", "--data.dir=data", "--data.length=8", "--data.vocabulary=30", *settings)

    def test_ag_news(self):
        self.news_test(foreign.Transformer(30, 8, 16, 2, 1, gpt=False, classes=4), "--model.name=encoder", "--model.embed=16",
                       "--model.heads=2", "--model.depth=1")

    def test_ag_news_with_lstm(self):
        self.news_test(foreign.Lstm(30, 5, 11, 3, 4, every=False), "--model.name=lstm", "--model.embed=5", "--model.layers=3",
                       "--model.hidden=11")


if __name__ == "__main__":
    unittest.main()

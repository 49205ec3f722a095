"""Bad input ends with its status and one sentence, and leaves no files."""

import os
import signal
import struct
import subprocess
import sys
import time
import unittest

import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from support import ESPALIER, MPIRUN, ProgramTest  # noqa: E402


class BadInput(ProgramTest):
    def refused(self, status, words, *arguments, **options):
        said = self.assert_refused(status, words, "run", self.input, *arguments, **options)
        self.assertFalse(os.path.exists(self.path("runs")), "something was written")
        return said

    def test_unknown_key(self):
        self.refused(2, "did you mean 'train.lr'", "--train.lrr=0.1")

    def test_unknown_key_in_a_file(self):
        self.input = self.write("typo.ini", "[train]\nlrr = 1\n")
        self.refused(2, "typo.ini line 2")

    def test_wrong_type(self):
        self.refused(2, "run.rounds", "--run.rounds=many")

    def test_out_of_range(self):
        self.refused(2, "train.batch", "--train.batch=0")

    def test_missing_input_file(self):
        self.input = self.path("nothing.ini")
        self.refused(2, "nothing.ini")

    def test_unknown_flag(self):
        self.refused(2, "--restart", "--restart")
        self.refused(2, "--over", "--over")  # no abbreviations

    def test_a_setting_without_its_value(self):
        self.refused(2, "--train.lr=VALUE", "--train.lr")

    def test_two_input_files(self):
        self.refused(2, "one input file", self.input)

    def test_help_of_a_command(self):
        for words in (("run", "--help"), ("diff", "--help"), ("export", "-h"), ("--help",), ("help",), ("help", "run")):
            done = self.espalier(*words)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("espalier run INPUT.ini", done.stdout)
            self.assertIn("--resume", done.stdout)
            self.assertEqual("calibrate" in done.stdout, "run" not in words, words)

    def test_explain_takes_data_sets_and_rules(self):
        for name, words in (("digits", "data set digits: "), ("csv", "data.csv_label"),
                            ("rolling", "method.submodel rolling: "), ("dynamic", "method.merge dynamic: "),
                            ("dynamic", "method.objective dynamic: "), ("heterofl", "method heterofl: ")):
            done = self.espalier("explain", name)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(words, done.stdout)
        self.assert_refused(2, "unknown option 'digit'", "explain", "digit")

    def test_files_that_are_no_records(self):
        table = self.write("t.csv", "a,b\n1,2\n")
        for words in (("info", table), ("diff", table, table)):
            self.assert_refused(4, "t.csv is no HDF5 file; give a run.h5 or a checkpoint", *words)

    def test_a_correction_of_nothing(self):
        said = self.refused(2, "method.merge = average", "--method.name=depthfl", "--method.dynamic_alpha=0",
                            "--model.name=mlp")
        self.assertNotIn("cross_entropy", said)
        self.refused(2, "cross_entropy and method.merge = average", "--method.name=feddyn", "--method.dynamic_alpha=0")

    def test_a_name_in_the_wrong_section(self):
        for key, meant in (("model.lr", "train.lr"), ("data.batch", "train.batch"), ("run.epochs", "train.epochs"),
                           ("device.memory_mb", "device.NAME.memory_mb")):
            self.refused(2, f"unknown option '{key}' in the command line; did you mean '{meant}'?", f"--{key}=1")

    def test_a_fleet_with_a_slip(self):
        for fleet, words in (("3*fast, 4 slow", "has the part '4 slow'; did you mean 4*slow?"),
                             ("3fast, 4*slow", "did you mean 3*fast?"), ("3*fast, 4 x slow", "did you mean 4*slow?"),
                             ("3xfast", "did you mean 3*fast?"), ("fast*3", "has the part 'fast*3': write a count"),
                             ("3*fast 4*slow", "separated by commas"), ("3*fast; 4*slow", "separated by commas"),
                             ("7*fats", "there are: laptop, fast, slow; add a section [device.fats]")):
            self.refused(2, words, f"--clients.fleet={fleet}")

    def test_a_placeholder_that_stands_for_nothing(self):
        for name in ("x-{methd}", "{Seed}", "{}"):
            self.refused(2, "write {seed}, {method}, {job}", f"--run.name={name}", "--check")
        self.run_ok("a-{b")
        self.assertTrue(os.path.exists(self.path("runs", "a-{b")))

    def test_the_client_of_each_sample_is_missing(self):
        os.mkdir(self.path("arrays"))
        np.save(self.path("arrays", "x.npy"), np.ones((60, 4), np.float32))
        np.save(self.path("arrays", "y.npy"), np.arange(60) % 3)
        table = self.write("t.csv", "".join(f"{i},{i % 3}\n" for i in range(60)))
        for words, settings in (("arrays does not name it; add an array 'client' beside",
                                 ["--data.name=arrays", f"--data.dir={self.path('arrays')}"]),
                                ("csv does not name it; set data.csv_client", ["--data.name=csv", f"--data.file={table}", "--data.csv_header=false"]),
                                ("choose another partition", [])):
            self.refused(2, words, "--data.partition=given", *settings)

    def test_a_batch_larger_than_the_data_of_a_client(self):
        few = ["--clients.count=6", "--clients.fleet=", "--data.partition=iid", "--data.synthetic_samples=60", "--run.rounds=1"]
        for batch, said in ((8, ("", "")), (11, ("", "6 of 6 clients have fewer samples than a batch (train.batch = 11; "))):
            done = self.espalier("run", self.input, *few, f"--train.batch={batch}", f"--run.name=b{batch}")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(said[1], done.stderr)
            self.assertEqual(done.stderr == "", batch == 8, done.stderr)
        uneven = self.espalier("run", self.input, "--check", "--data.alpha=0.05", "--train.batch=60")
        self.assertRegex(uneven.stdout, r"[1-6] of 7 clients have fewer samples than a batch \(train.batch = 60; the least is \d+\)")
        self.assertEqual(uneven.stderr, "")

    def test_unknown_method(self):
        self.refused(2, "there are: fedavg", "--method.name=fedavrg")

    def test_missing_data(self):
        self.refused(3, "mnist", "--data.name=mnist", f"--data.dir={self.path('absent')}")

    def write_mnist(self, name, images=10, label=3, cut=0):
        """A folder of MNIST files with `images` samples; the file of images lacks its last `cut` bytes."""
        folder = self.path(name)
        os.makedirs(folder)
        for part in ("train", "t10k"):
            pixels = struct.pack(">IIII", 0x803, images, 28, 28) + bytes(images * 28 * 28)
            labels = struct.pack(">II", 0x801, images) + bytes([0] * (images - 1) + [label])
            for kind, content in (("images-idx3", pixels[:len(pixels) - cut]), ("labels-idx1", labels)):
                with open(os.path.join(folder, f"{part}-{kind}-ubyte"), "wb") as file:
                    file.write(content)
        return folder

    def refused_mnist(self, words, ranks=1, **damage):
        folder = self.write_mnist(f"data{ranks}", **damage)
        self.refused(3, words, "--data.name=mnist", f"--data.dir={folder}", "--data.partition=iid",
                     "--clients.count=2", "--clients.fleet=", ranks=ranks)

    def test_truncated_data(self):
        for ranks in (1, 3):
            self.refused_mnist("train-images-idx3-ubyte is cut short", cut=100, ranks=ranks)

    def test_a_label_out_of_range(self):
        for ranks in (1, 3):
            self.refused_mnist("label 12 of sample 9", label=12, ranks=ranks)

    def test_more_classes_than_the_model_has(self):
        for ranks in (1, 3):
            self.refused(2, "model.classes", "--model.classes=4", ranks=ranks)

    def test_a_model_with_more_classes_than_the_data_learns(self):
        self.run_ok("wide", "--model.classes=13", "--method.name=heterofl")

    def test_more_clients_than_samples(self):
        self.refused(2, "600", "--clients.count=700", "--clients.fleet=", "--data.partition=iid")

    def test_window_that_can_never_close(self):
        self.refused(2, "window.min_updates", "--window.min_updates=8")

    def test_from_any_rank(self):
        self.refused(2, "did you mean", "--train.lrr=0.1", ranks=3)

    def test_no_client_has_the_memory(self):
        self.assert_refused(6, "memory", "run", self.input, "--device.slow.memory_mb=0.001",
                            "--device.fast.memory_mb=0.001")

    def test_training_that_explodes(self):
        self.assert_refused(5, "finite", "run", self.input, "--train.lr=1000",
                            "--model.hidden=64,64,64,64,64", "--run.rounds=9")

    def test_launcher_without_a_common_world(self):
        done = self.espalier("run", self.input, env={"PMI_SIZE": "4"})
        self.assertEqual(done.returncode, 2, done.stderr)

    def test_check_writes_nothing(self):
        done = self.espalier("run", self.input, "--check")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"device +clients +width")
        self.assertRegex(done.stdout, r"fast +3 +1 ")
        self.assertFalse(os.path.exists(self.path("runs")))

    def test_print_config_reproduces_the_run(self):
        a = self.run_ok("a")
        printed = self.espalier("run", self.input, "--run.name=b", "--print-config").stdout
        again = self.write("again.ini", printed)
        done = self.espalier("run", again)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_same(a, self.path("runs", "b"))


class RunFolder(ProgramTest):
    def test_a_folder_instead_of_a_checkpoint_is_refused_with_its_newest(self):
        self.run_ok("a", "--checkpoint.every=1")
        newest = os.path.join("runs", "a", "checkpoints", "ckpt_00000003.h5")
        os.mkdir(self.path("plain"))
        for command in (["export", "runs/a", "a.safetensors"], ["export", "runs/a/checkpoints", "a.safetensors"],
                        ["generate", "runs/a", "--prompt=x"], ["run", self.input, "--run.name=b", "--model.init=runs/a"]):
            said = self.assert_refused(2, f"is a folder; name one of its checkpoints, as {newest}", *command)
            self.assertNotIn("damaged", said)
        self.assert_refused(2, "plain is a folder; name a checkpoint (.h5)", "export", "plain", "a.safetensors")
        self.assert_refused(2, "whose name ends in .safetensors", "export", newest, "a.pt")
        self.assert_refused(2, "export needs two files", "export", newest)

    def test_a_finished_run_prints_its_result_again(self):
        run = self.run_ok("a")
        said = self.assert_refused(4, "run.h5 is an", "export", os.path.join(run, "run.h5"), "a.safetensors")
        self.assertTrue(said.endswith("no checkpoint; give a file of its folder checkpoints/"), said)
        before = os.path.getmtime(self.path("runs", "a", "run.h5"))
        self.run_ok("a")
        self.assertEqual(before, os.path.getmtime(self.path("runs", "a", "run.h5")))

    def test_another_run_is_refused_and_overwritten_on_request(self):
        self.run_ok("a")
        self.assert_refused(2, "train.lr", "run", self.input, "--run.name=a", "--train.lr=0.01")
        self.run_ok("a", "--train.lr=0.01", "--overwrite")

    def test_a_folder_in_use_is_refused(self):
        endless = subprocess.Popen([ESPALIER, "run", self.input, "--run.name=a", "--run.rounds=1000000"],
                                   cwd=self.folder.name, stdout=subprocess.DEVNULL)
        try:
            while not os.path.exists(self.path("runs", "a", "run.h5")):
                self.assertIsNone(endless.poll())
                time.sleep(0.05)
            self.assert_refused(2, "in use", "run", self.input, "--run.name=a", "--run.rounds=1000000")
        finally:
            endless.kill()
            endless.wait()

    def test_a_killed_rank_ends_the_job(self):
        job = subprocess.Popen([MPIRUN, "-n", "3", ESPALIER, "run", self.input, "--run.name=a",
                                "--run.rounds=1000000"], cwd=self.folder.name, text=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while not os.path.exists(self.path("runs", "a", "run.h5")):
            self.assertIsNone(job.poll())
            time.sleep(0.05)
        time.sleep(0.5)
        ranks = subprocess.run(["pgrep", "-f", f"^{ESPALIER} run {self.input}"], capture_output=True,
                               text=True).stdout.split()
        self.assertEqual(len(ranks), 3)
        os.kill(int(ranks[-1]), signal.SIGKILL)
        started = time.monotonic()
        _, message = job.communicate(timeout=30)
        self.assertLess(time.monotonic() - started, 5)
        self.assertEqual(job.returncode, 137)
        self.assertEqual(message, "error: a rank was ended by signal 9\n")

    def test_what_the_launcher_cannot_start_is_said(self):
        plain = self.write("plain", "no program")
        for program in ("nosuch", plain, self.folder.name + "/absent"):
            done = subprocess.run([MPIRUN, "-n", "2", program], text=True, capture_output=True, timeout=60)
            self.assertEqual((done.returncode, done.stderr), (2, f"error: there is no program {program}\n"))
        done = subprocess.run([MPIRUN, "-n", "2", "--hostfile", "absent", "true"], text=True, capture_output=True, timeout=60)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("absent", done.stderr)

    def test_a_killed_launcher_ends_its_ranks(self):
        words = ["run", self.input, "--run.name=b", "--run.rounds=1000000"]
        job = subprocess.Popen(self.command(*words, ranks=2), cwd=self.folder.name, stdout=subprocess.PIPE)
        self.assertTrue(job.stdout.readline())
        job.kill()
        job.communicate(timeout=30)  # the ranks hold the pipe


if __name__ == "__main__":
    unittest.main()

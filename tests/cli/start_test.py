"""The start of a run: bad input is refused before anything is written, and by --check; after a start that was killed
or failed, the same command starts the run again."""

import os
import re
import shutil
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(__file__))
from support import ESPALIER, ProgramTest, finish  # noqa: E402

LANGUAGE = ["--data.synthetic_shape=8", "--data.synthetic_vocabulary=11", "--data.synthetic_labels=next_token",
            "--data.partition=iid", "--model.name=gpt", "--model.depth=1", "--model.embed=12", "--model.heads=2"]
MEASURED = "--clock.kind=measured"

# Settings that are valid alone but not together, and words of the sentence that refuses them.
REFUSED = [
    (["--faults.clients=7", "--faults.crash=0.5"], "faults.clients names client 7"),
    (["--faults.clients=0.5", "--faults.late=0.5"], "faults.clients names client 0.5"),
    ([*LANGUAGE, "--run.target_accuracy=0.25"], "run.target_accuracy"),
    ([MEASURED, "--device.slow.gflops_conv=3"], "clock.host_gflops"),
    ([MEASURED, "--device.fast.memory_gbps=3"], "clock.host_gflops"),
    (["--window.min_updates=8"], "window.min_updates"),
    (["--window.max_spread=2", "--clients.per_round=3"], "window.max_spread"),
    (["--window.release=arrival"], "window.release"),
    (["--clients.per_round=8"], "clients.per_round"),
    (["--method.name=heterofl", "--method.widths=1,0.5", "--method.proportions=1"], "method.proportions"),
    (["--method.name=heterofl", "--method.widths=1,1.5"], "method.widths"),
    (["--train.nesterov=true"], "train.momentum"),
    (["--device.slow.availability=1.5"], "availability"),
    (["--clients.fleet=3*fast"], "clients.fleet"),
    (["--device.slow.up_mbps=1e-13"], "more than 100 years"),
    (["--device.fast.latency_ms=1e14"], "more than 100 years"),
    (["--server.down_mbps=1e-13"], "server.down_mbps"),
    (["--server.gflops=1e-17"], "server.gflops"),
    (["--device.slow.gflops=1e-6", "--train.epochs=1000000", "--model.hidden=1280,160"], "more than 100 years"),
    # Each part of a task is within 100 years, their sum is not.
    (["--device.fast.latency_ms=1.7e12"], "device.fast.latency_ms"),
    (["--device.slow.down_mbps=8.5e-11", "--device.slow.up_mbps=8.5e-11"], "device.slow.down_mbps"),
    (["--train.steps=1000000000", "--model.hidden=3000,3000", "--device.fast.gflops=1e30", "--device.slow.gflops=1e30",
      "--train.batch=600"], "more operations than the program can count"),
    (["--run.virtual_limit=9.3e9"], "run.virtual_limit"),
    (["--device.slow.memory_mb=1e13"], "memory_mb"),
    (["--data.name=arrays", "--data.file=" + "f" * 300], "File name too long"),
]


class Refused(ProgramTest):
    def test_before_anything_is_written_and_by_check(self):
        for settings, words in REFUSED:
            with self.subTest(settings):
                self.assert_refused(2, words, "run", self.input, *settings)
                self.assert_refused(2, words, "run", self.input, *settings, "--check")
                self.assertFalse(os.path.exists(self.path("runs")), "something was written")

    def test_on_several_ranks(self):
        for flags in ([], ["--check"]):
            self.assert_refused(2, "faults.clients names client 9", "run", self.input, "--faults.clients=9",
                                *flags, ranks=3)
        self.assertFalse(os.path.exists(self.path("runs")), "something was written")

    def test_a_resume_leaves_the_folder_unchanged(self):
        run = self.run_ok("a", "--clock.kind=measured", "--run.rounds=2")
        self.assert_untouched(run, 2, "--train.lr=0.01", "train.lr is '0.05' there")

    def assert_untouched(self, run, status, setting, words):
        state = lambda: {name: os.stat(os.path.join(run, name)).st_mtime_ns for name in os.listdir(run)}
        before = state()
        self.assert_refused(status, words, "run", self.input, f"--run.name={os.path.basename(run)}", setting)
        self.assertEqual(state(), before)


class Names(ProgramTest):
    def test_too_long_for_a_folder(self):
        for flags in ([], ["--check"]):
            self.assert_refused(2, "run.name has 300 characters", "run", self.input, "--run.name=" + "n" * 300, *flags)
        self.assert_refused(2, "File name too long", "run", self.input, "--run.dir=" + "d" * 300)
        self.assert_refused(2, "run.name has 257 characters", "run", self.input, "--run.name={seed}" + "n" * 256, ranks=2)
        self.run_ok("n" * 255)

    def test_one_process_needs_no_folder_of_mpi(self):
        # Processes of one user would share this folder, and one would remove it while another starts.
        self.run_ok("alone", env={"TMPDIR": "/proc/none"})

    def test_a_file_in_the_folders_place(self):
        self.write("small", "mine")
        self.assert_refused(2, "exists and is no run", "run", self.input, "--run.dir=.")


class InputFiles(ProgramTest):
    TEXT = "[run]\nname = marked\nrounds = 1\n[data]\nname = synthetic\nsynthetic_samples = 40\n[clients]\ncount = 2\n"

    def given(self, content):
        with open(self.path("given.ini"), "wb") as file:
            file.write(content)
        return self.espalier("run", self.path("given.ini"))

    def test_with_a_byte_order_mark_are_read(self):
        for text in (self.TEXT, "# first\n" + self.TEXT):
            done = self.given(b"\xef\xbb\xbf" + text.encode())
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_in_utf16_are_refused_in_one_sentence(self):
        for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
            done = self.given(self.TEXT.encode(encoding))
            self.assertEqual(done.returncode, 2)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            self.assertIn("given.ini is not plain text, perhaps UTF-16; save it as UTF-8", done.stderr)
        self.assertFalse(os.path.exists(self.path("runs")))


class Progress(ProgramTest):
    def test_names_the_version_that_was_evaluated(self):
        # If a run may end at an accuracy, round 3 waits for the evaluation of version 2.
        done = self.espalier("run", self.input, "--record.evaluate_every=2", "--run.target_accuracy=1",
                             "--train.lr=1e-6")
        self.assertEqual(done.returncode, 0, done.stderr)
        quality = re.search(r"\nversion +2 .* ([\d.]+)\n", done.stdout).group(1)
        self.assertRegex(done.stdout, rf"\nround +3/3 .* {quality} \(v2\)\n")

    def test_is_one_table_with_units(self):
        done = self.espalier("run", self.input, "-v", "--run.rounds=12", "--record.evaluate_every=5",
                             "--data.partition=iid")
        head, *rows, last = done.stdout.splitlines()
        self.assertEqual(head.split(), "loss virtual s wall s rounds/s left top-1".split())
        self.assertEqual([row.split()[:2] for row in rows if row.startswith("round")], [["round", f"{v}/12"] for v in range(1, 13)])
        self.assertEqual([row.split()[1] for row in rows if row.startswith("version")], ["5", "10", "12"])
        self.assertTrue(last.startswith("done: "), last)
        ends = [head.index(name) + len(name) for name in ("loss", "virtual s", "wall s")]
        for row in rows:
            self.assertLess(len(row), 80)
            for end in ends:  # the columns end where their names do
                self.assertRegex(row[:end + 1], r"[\d.] $", row)

    def test_a_model_of_language_has_perplexity(self):
        words = ("--data.name=text", "--data.file=" + self.write("t.txt", "to be or not to be " * 60), "--data.length=8",
                 "--data.partition=iid", "--model.name=gpt", "--model.embed=8", "--model.heads=2", "--model.depth=1")
        self.assertRegex(self.espalier("run", self.input, *words).stdout, r"\A +loss .* perplexity\n")

    def on_terminal(self, *words):
        """The program's output on a terminal, as bytes."""
        script = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
        done = subprocess.run([sys.executable, "-c", script, ESPALIER, "run", self.input, *words], cwd=self.folder.name,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout.decode()

    def test_on_a_terminal_the_live_line_stays_and_the_log_has_it(self):
        shown = self.on_terminal("--run.rounds=9", "--record.evaluate_every=4", "--data.partition=iid")
        erase = "\r\033[K"
        # Behind each evaluation, above which it was, the live line comes back.
        lines = shown.split("\r\n")
        self.assertEqual(lines[-1], "")
        for number, line in enumerate(lines[:-1]):
            final = line.split(erase)[-1]  # what stays of the line
            self.assertRegex(final, r"^( +loss|version|done:)")
            if final.startswith("version"):
                self.assertTrue(lines[number + 1].startswith(erase + "round"), lines[number + 1])
        self.assertIn("round   9/9", shown)
        with open(self.path("runs", "small", "log.txt")) as file:
            log = file.read()
        self.assertRegex(log, r" round +1/9 ")
        self.assertRegex(log, r" round +9/9 ")


class Quiet(ProgramTest):
    def test_prints_the_last_line_only(self):
        done = self.espalier("run", self.input, "-q")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"\Adone: rounds=3 .*\n\Z")
        again = self.espalier("run", self.input, "-q")
        self.assertEqual(again.stdout, done.stdout)

    def test_check_prints_the_line_on_memory(self):
        regions = ["--method.name=diloco", "--regions.period=4", "--regions.overlap=0"]
        split = ["--method.name=splitfed_v1"]
        for settings, line in (([], r"memory   all 7 clients can hold their task"),
                               (["--device.slow.memory_mb=0.001"], r"memory   4 of 7 clients cannot hold their task \(slow\): .*"),
                               (regions, r"memory   .* at most for a region"), (split, r"memory   .* at most for a bottom, .*")):
            with self.subTest(settings):
                done = self.espalier("run", self.input, "-q", "--check", *settings)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertRegex(done.stdout, rf"\A{line}\n\Z")
                self.assertIn(done.stdout, self.espalier("run", self.input, "--check", *settings).stdout)

    def test_prints_where_it_stopped(self):
        done = self.espalier("run", self.input, "-q", "--run.rounds=1000000", "--wall=00:00:01",
                             "--record.evaluate_every=1000000")
        self.assertEqual(done.returncode, 85, done.stderr)
        self.assertRegex(done.stdout, r"\Astopped at version \d+ .*\n\Z")


class ServerMemory(ProgramTest):
    def test_is_bounded_by_what_exists_at_once(self):
        """Of clients that keep the state of their optimiser, those have one that had a task."""
        def server(*settings):
            done = self.espalier("run", self.input, "--check", "--model.name=mlp", "--model.hidden=300, 260", *settings)
            self.assertEqual(done.returncode, 0, done.stderr)
            return float(re.search(r"^server +([\d.]+) MB at most, on a rank of its own$", done.stdout, re.M).group(1))
        keep = ["--clients.per_round=3", "--run.rounds=4", "--train.momentum=0.9", "--train.optimizer_state=keep",
                "--clients.fleet=", "--data.samples_per_client=5"]
        few, many = server(*keep, "--clients.count=30"), server(*keep, "--clients.count=600")
        self.assertLess(many - few, 60)  # 600 states are more than 190 MB
        self.assertGreater(server("--method.name=diloco", "--regions.period=4"), 40)
        self.assertGreater(server("--method.name=splitfed_v2"), 40)


class Unread(ProgramTest):
    def test_is_said_before_training_and_in_the_log(self):
        done = self.espalier("run", self.input, "--faults.late_factor=9", "--train.beta1=0.5")
        self.assertEqual(done.returncode, 0, done.stderr)
        warnings = ["warning: train.beta1 was given, but nothing reads it in this run"]
        self.assertEqual(done.stderr.splitlines(), warnings)
        with open(self.path("runs", "small", "log.txt")) as file:
            log = file.read()
        self.assertIn(warnings[0], log)
        self.assertLess(log.index(warnings[0]), log.index(" round "))

    def test_is_said_by_check(self):
        done = self.espalier("run", self.input, "--clock.scale=0.5", "--check")
        self.assertIn("warning: clock.scale was given, but nothing reads it", done.stderr)

    def test_what_is_read_is_not_named(self):
        for settings in (["--checkpoint.keep=4", "--checkpoint.keep_every=2"],
                         ["--clock.kind=paced", "--clock.scale=0.001"],
                         [MEASURED, "--clock.host_gflops=3"], ["--data.calibration=10"],
                         ["--clients.availability_period_s=7"], ["--record.evaluate_batch=50"]):
            done = self.espalier("run", self.input, *settings, "--check")
            self.assertEqual(done.stderr, "", settings)

    def test_a_resume_warns_of_given_settings_without_effect(self):
        self.run_ok("a", "--run.rounds=2", "--train.beta1=0.5")
        done = self.espalier("run", self.input, "--run.name=a", "--train.beta1=0.5", "--run.rounds=4")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr, "warning: train.beta1 was given, but nothing reads it in this run\n")


CHANGING = "mkdir,mkdirat,open,openat,creat,rename,renameat,renameat2,unlink,unlinkat,rmdir,write,pwrite64,ftruncate,fsync"


@unittest.skipUnless(shutil.which("strace") and subprocess.run(["strace", "-o", "/dev/null", "true"]).returncode == 0,
                     "strace cannot trace here")
class EndedStart(ProgramTest):
    """Kills or fails each of the first system calls of a start that change the run's folder, by strace's fault injection."""

    TINY = ["--run.rounds=1", "--clients.count=2", "--clients.fleet=", "--data.synthetic_samples=60",
            "--data.partition=iid"]

    def setUp(self):
        super().setUp()
        self.TINY = [*EndedStart.TINY, f"--run.dir={self.path('runs')}"]  # strace's -P needs absolute paths

    def start(self, name, *flags, inject=None):
        """Runs a start under strace to its end; returns it and the trace of the calls on the run's files."""
        run = self.path("runs", name)
        files = ["", "checkpoints", "LOCK", "config.ini.tmp", "config.ini", "log.txt", "run.h5", "run.journal",
                 "DONE", "DONE.tmp"]
        command = ["strace", "-f", "-qq", "-y", "-o", self.path("trace"), "-e", f"trace={CHANGING}"]
        for path in [self.path("runs")] + [os.path.join(run, file).rstrip("/") for file in files]:
            command += ["-P", path]
        if inject:
            command += ["-e", f"inject={inject}"]
        command += [ESPALIER, "run", self.input, f"--run.name={name}", *self.TINY, *flags]
        done = finish(self.begin(command), 60)
        with open(self.path("trace")) as file:
            return done, file.read().splitlines()

    def changes(self, name, *flags):
        """Returns the calls of a whole start: name, count of that name so far, and the line."""
        done, trace = self.start(name, *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        counts, calls = {}, []
        for line in trace:
            if " resumed>" in line:  # the end of a call that strace began to print before one of another thread
                continue
            call = re.match(r"\d+ +(\w+)\(", line)[1]
            counts[call] = counts.get(call, 0) + 1
            if not (call.startswith("open") and "O_RDONLY" in line):
                calls.append((call, counts[call], line))
        return calls

    def test_by_a_kill_can_be_started_again(self):
        calls = self.changes("whole")[:20]
        shutil.rmtree(self.path("runs"))
        self.assertEqual(len(calls), 20)
        self.assertRegex(calls[-1][2], r"run\.(h5|journal)")  # well beyond config.ini
        for number, (call, nth, line) in enumerate(calls):
            with self.subTest(line):
                done, _ = self.start(f"run{number}", inject=f"{call}:signal=KILL:when={nth}")
                self.assertEqual(done.returncode, -signal.SIGKILL, done.stdout + done.stderr)
                self.run_ok(f"run{number}", *self.TINY)
                shutil.rmtree(self.path("runs"))

    def test_by_a_full_disk_can_be_started_again(self):
        calls = self.changes("whole")
        shutil.rmtree(self.path("runs"))
        last = next(i for i, call in enumerate(calls) if call[0].startswith("rename"))  # of config.ini
        calls = [call for call in calls[:last + 1] if not call[0].startswith("unlink")]
        self.assertGreater(len(calls), 6)
        for number, (call, nth, line) in enumerate(calls):
            with self.subTest(line):
                done, _ = self.start(f"run{number}", inject=f"{call}:error=ENOSPC:when={nth}")
                self.assertEqual(done.returncode, 4, done.stdout + done.stderr)
                self.assertIn("No space left", done.stderr)
                self.run_ok(f"run{number}", *self.TINY)
                shutil.rmtree(self.path("runs"))

    def test_that_overwrites_by_a_kill_can_be_started_again(self):
        original = self.run_ok("original", *self.TINY)
        shutil.copytree(original, self.path("runs", "whole"))
        calls = self.changes("whole", "--overwrite")
        first = next(i for i, call in enumerate(calls) if call[0].startswith("mkdir"))
        self.assertGreater(first, 4)
        for number, (call, nth, line) in enumerate(calls[:first]):
            with self.subTest(line):
                name = f"run{number}"
                shutil.copytree(original, self.path("runs", name))
                done, _ = self.start(name, "--overwrite", inject=f"{call}:signal=KILL:when={nth}")
                self.assertEqual(done.returncode, -signal.SIGKILL, done.stdout + done.stderr)
                self.run_ok(name, *self.TINY, "--overwrite")


class TakenOver(ProgramTest):
    def folder_with(self, *names):
        run = self.path("runs", "a")
        os.makedirs(os.path.join(run, "checkpoints"))
        for name in names:
            with open(os.path.join(run, name), "w") as file:
                file.write("x")
        return run

    def test_only_a_folder_of_our_own_unfinished_files(self):
        for flags in ([], ["--overwrite"]):
            with self.subTest(flags):
                run = self.folder_with("config.ini.tmp")
                self.run_ok("a", *flags)
                shutil.rmtree(run)

    def test_not_a_folder_with_anything_else(self):
        for names in (["thesis.tex"], ["config.ini.tmp", "notes"], ["checkpoints/mine.h5"], ["run.h5"]):
            for flags in ([], ["--overwrite"]):
                with self.subTest(names=names, flags=flags):
                    run = self.folder_with(*names)
                    before = sorted(os.walk(run))
                    self.assert_refused(2, "no run", "run", self.input, "--run.name=a", *flags)
                    self.assertEqual(sorted(os.walk(run)), before)
                    shutil.rmtree(run)


if __name__ == "__main__":
    unittest.main()

"""The scripts of tools/, in environments as on users' machines."""

import os
import re
import shutil
import signal
import subprocess
import sys
import unittest

from support import ESPALIER, MPIRUN, ProgramTest, finish

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOOLS = os.path.join(ROOT, "tools")


class ProjectPythonTest(ProgramTest):
    """After tools/setup.sh --tests or --python the examples of docs/weights.md work in the project's own Python."""

    def test_torch_loads_trains_and_takes_weights_in_and_out(self):
        program = """
import sys, torch, safetensors.torch
net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(18, 4))
for step in (torch.optim.SGD(net.parameters(), 0.1), torch.optim.Adam(net.parameters())):
    torch.nn.functional.cross_entropy(net(torch.ones(5, 3, 5, 5)), torch.arange(5) % 4).backward()
    step.step()
safetensors.torch.save_file(net.state_dict(), sys.argv[1])
state = safetensors.torch.load_file(sys.argv[1])
assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
net.load_state_dict(state)
"""
        # -I: packages of the user's own Python must not hide packages that are missing here.
        done = finish(self.begin([sys.executable, "-I", "-c", program, self.path("net.safetensors")]), 120)
        self.assertEqual(done.returncode, 0, done.stderr)


class Mpirun(ProgramTest):
    RANKS = "import os; os.write(1, b'rank %d\\n' % int(os.environ['OMPI_COMM_WORLD_RANK']))"

    def ranks(self, env=None, shell=""):
        words = [MPIRUN, "-n", "3", sys.executable, "-c", self.RANKS]
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *words] if shell else words
        return finish(self.begin(command, env), 60)

    def test_within_an_allocation_without_its_launcher(self):
        path = self.path("bin")  # all programs except Slurm's launcher
        os.mkdir(path)
        for folder in os.environ["PATH"].split(os.pathsep):
            for name in os.listdir(folder) if os.path.isdir(folder) else ():
                if name != "srun" and not os.path.lexists(os.path.join(path, name)):
                    os.symlink(os.path.join(folder, name), os.path.join(path, name))
        for variables in ({"SLURM_NODELIST": "node[7-8]", "SLURM_TASKS_PER_NODE": "4(x2)", "SLURM_NNODES": "2"}, {}):
            with self.subTest(variables):
                done = self.ranks({"SLURM_JOB_ID": "4711", "SLURM_JOBID": "4711", "PATH": path, **variables})
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual(sorted(done.stdout.splitlines()), ["rank 0", "rank 1", "rank 2"])
                self.assertEqual(done.stderr, "")

    def test_with_streams_closed(self):
        marks = self.path("marks")
        os.mkdir(marks)
        self.RANKS = f"import os; open({marks!r} + '/' + os.environ['OMPI_COMM_WORLD_RANK'], 'w')"
        for shell in ("<&- >&- 2>&-", "<&-", ">&-", "2>&-"):
            with self.subTest(shell):
                self.assertEqual(self.ranks(shell=shell).returncode, 0)
                self.assertEqual(sorted(os.listdir(marks)), ["0", "1", "2"])
                for mark in os.listdir(marks):
                    os.remove(os.path.join(marks, mark))

    def test_a_run_with_streams_closed_is_the_same(self):
        self.run_ok("straight")
        for name, ranks in (("alone", 1), ("three", 3)):
            words = self.command("run", self.input, f"--run.name={name}", ranks=ranks)
            done = finish(self.begin(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *words]), 120)
            self.assertEqual(done.returncode, 0)
            self.assert_same(self.path("runs", "straight"), self.path("runs", name))

    def test_files_do_not_take_the_place_of_closed_streams(self):
        # The output must not reach a file: mpirun.sh opens the closed streams on /dev/null before the program runs.
        words = ["strace", "-f", "-qq", "-y", "-o", self.path("trace"), "-e", "trace=write", ESPALIER, "list", "methods"]
        if not shutil.which("strace"):
            self.skipTest("no strace")
        done = finish(self.begin(["sh", "-c", 'exec "$@" >&-', "sh", *words]), 60)
        self.assertEqual(done.returncode, 0)
        with open(self.path("trace")) as file:
            printed = [line for line in file if re.search(r"write\(1<", line)]
        self.assertTrue(printed)
        self.assertTrue(all("write(1</dev/null" in line for line in printed), printed)


class Plot(ProgramTest):
    def test_with_the_backend_of_a_notebook(self):
        run = self.run_ok("a")
        for backend in ("module://matplotlib_inline.backend_inline", "nbagg", "no_such_backend"):
            done = finish(self.begin([sys.executable, os.path.join(ROOT, "tools", "plot.py"), run, "-o",
                                      self.path("a.png")], {"MPLBACKEND": backend}), 120)
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(self.path("a.png"), "rb") as file:
                self.assertEqual(file.read(4), b"\x89PNG")
            os.remove(self.path("a.png"))


class Endings(ProgramTest):
    """A tool ends without a traceback if its output is closed or its disk is full."""

    def ending(self, words, stdout):
        done = subprocess.run([sys.executable, os.path.join(TOOLS, words[0] + ".py"), *words[1:]], cwd=self.folder.name, text=True,
                              stdout=stdout, stderr=subprocess.PIPE, timeout=120)
        self.assertNotIn("Traceback", done.stderr)
        self.assertNotIn("Exception ignored", done.stderr)
        return done

    def test_no_reader_and_no_room(self):
        run = self.run_ok("small", "--run.rounds=1")
        self.write("sweep.ini", "[sweep]\ninput = small.ini\n")
        for words in (["compare", run], ["plot", run, "-p", "quality"], ["report", run], ["track", run, "--to", "csv"],
                      ["follow", run], ["sweep", "sweep.ini", "--list"], ["compare", "--help"], ["get_data", "--help"],
                      ["pack_images", "--help"], ["tokenize", "--help"]):
            with self.subTest(words):
                ours, theirs = os.pipe()
                os.close(ours)
                done = self.ending(words, theirs)
                os.close(theirs)
                self.assertEqual((done.returncode, done.stderr), (128 + signal.SIGPIPE, ""))
                with open("/dev/full", "w") as full:
                    done = self.ending(words, full)
                self.assertEqual((done.returncode, done.stderr), (4, f"{words[0]}.py: output: No space left on device\n"))

    def test_closed_output(self):
        run = self.run_ok("small", "--run.rounds=1")
        done = subprocess.run(["sh", "-c", f'"{sys.executable}" "{TOOLS}/follow.py" "{run}" >&-'], text=True, capture_output=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_ctrl_c(self):
        """A tool that waits for its table is asked to end."""
        os.mkfifo(self.path("table.csv"))
        job = self.begin([sys.executable, os.path.join(TOOLS, "compare.py"), "--sweep", "table.csv"])
        with open(self.path("table.csv"), "w"):  # opens once the tool reads
            job.send_signal(signal.SIGINT)
            done = finish(job, 60)
        self.assertEqual((done.returncode, done.stderr), (128 + signal.SIGINT, ""))


class Scale(unittest.TestCase):
    def test_lines_of_ranks_that_mix(self):
        sys.path.insert(0, os.path.join(ROOT, "tests", "bench"))
        from scale import metered
        for text in ("<meter 0 1.25 4096>\n", "warn<meter 1 9.5 1><meter 0 1.25 4096>\n\n", "<meter 10 2.5 7>\nx<meter 0 1.25 4096>"):
            self.assertEqual(metered(text), (1.25, 4096))


if __name__ == "__main__":
    unittest.main()

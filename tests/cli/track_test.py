"""tools/track.py: what is exported equals the run file, read with h5py; formats are checked by their own rules."""

import csv
import importlib.util
import json
import os
import signal
import struct
import sys
import time
import unittest

import h5py
import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "tools"))
import track  # noqa: E402
from failing import FailingRunTest  # noqa: E402
from support import finish  # noqa: E402

TRACK = os.path.join(os.path.dirname(track.__file__), "track.py")


def crc32c(data):
    """CRC-32C bit by bit: the reflected polynomial of RFC 3720."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32


def records(content):
    """The data of each TFRecord; checks both checksums."""
    at = 0
    while at < len(content):
        length, = struct.unpack_from("<Q", content, at)
        assert struct.unpack_from("<I", content, at + 8)[0] == masked(content[at:at + 8])
        data = content[at + 12:at + 12 + length]
        assert struct.unpack_from("<I", content, at + 12 + length)[0] == masked(data)
        yield data
        at += 16 + length


def fields(data):
    """(number, value) of each field of a protobuf message."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    found = []
    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            found.append((key >> 3, varint()))
        elif kind == 2:
            length = varint()
            found.append((key >> 3, data[at:at + length]))
            at += length
        else:
            size, code = {1: (8, "<d"), 5: (4, "<f")}[kind]
            found.append((key >> 3, struct.unpack_from(code, data, at)[0]))
            at += size
    return found


def scalars(path):
    """{tag: [(step, value)]} of an event file."""
    found = {}
    with open(path, "rb") as file:
        content = file.read()
    for data in records(content):
        message = dict(fields(data))
        for _, value in fields(message.get(5, b"")):
            value = dict(fields(value))
            if 2 in value:
                found.setdefault(value[1].decode(), []).append((message[2], value[2]))
    return found


class TrackTest(FailingRunTest):
    def track(self, *words, env=None):
        return finish(self.begin([sys.executable, TRACK, *words], env), 120)

    def track_ok(self, *words, env=None):
        done = self.track(*words, env=env)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout.strip().splitlines()[-1]

    def event_file(self, folder):
        names = [name for name in os.listdir(folder) if "tfevents" in name]
        self.assertEqual(len(names), 1, names)
        return os.path.join(folder, names[0])

    def assert_scalars(self, run, found):
        """Checks {tag: [(step, value)]} against the run file."""
        rounds, seen = self.table(run, "rounds"), self.table(run, "evaluations")
        for tag, column, scale in (("training/loss", "train_loss", 1), ("updates/merged", "updates_merged", 1),
                                   ("staleness/mean", "staleness_mean", 1), ("traffic/up_MB", "bytes_up", 1e-6)):
            self.assertEqual([step for step, _ in found[tag]], rounds["version"].tolist())
            np.testing.assert_array_equal([v for _, v in found[tag]], (rounds[column] * scale).astype(np.float32), tag)
        for tag, column in (("test/top1", "top1"), ("test/loss", "loss")):
            self.assertEqual([step for step, _ in found[tag]], seen["version"].tolist())
            np.testing.assert_array_equal([v for _, v in found[tag]], seen[column].astype(np.float32), tag)
        self.assertNotIn("test/perplexity", found)  # NaN throughout


class TensorBoard(TrackTest):
    def test_bytes(self):
        self.assertEqual(crc32c(b"123456789"), 0xE3069283)  # the check value of CRC-32C
        self.assertEqual(track.masked_crc(b"123456789"), masked(b"123456789"))
        # The head of every event file that TensorFlow writes: 24 bytes, their checksum, wall time, version.
        head = track.event(0.0, 0, track.field(3, "brain.Event:2"))
        self.assertEqual(track.record(bytes(24))[:12], b'\x18\0\0\0\0\0\0\0\xa3\x7fK"')
        self.assertIn(b"\x1a\x0dbrain.Event:2", head)
        # An event of step 300 with the value 0.5, written out by the rules of protobuf.
        data = next(records(track.event(1.0, 300, track.summary({"a": 0.5}))))
        self.assertEqual(data, b"\x09\x00\x00\x00\x00\x00\x00\xf0\x3f" b"\x10\xac\x02" b"\x2a\x0a" b"\x0a\x08" b"\x0a\x01a" b"\x15\x00\x00\x00\x3f")

    def test_values_and_a_second_export(self):
        run = self.run_ok("failing")
        path = self.track_ok(run, "--to", "tensorboard")
        self.assertEqual(path, self.event_file(os.path.join(run, "tensorboard")))
        self.assert_scalars(run, scalars(path))
        self.assertEqual(self.track_ok(run, "--to", "tensorboard"), path)
        self.assert_scalars(run, scalars(path))

    @unittest.skipUnless(importlib.util.find_spec("tensorboard"), "the package tensorboard is not installed")
    def test_tensorboard_itself_reads_it(self):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        run = self.run_ok("failing")
        self.track_ok(run, "--to", "tensorboard", "-o", self.path("events"))
        events = EventAccumulator(self.path("events"), {"scalars": 0, "tensors": 0})
        events.Reload()
        self.assert_scalars(run, {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]})
        text = events.Tensors("options")[0].tensor_proto.string_val[0].decode()
        self.assertIn("| method.name | semi_async |", text)
        self.assertEqual(events.SummaryMetadata("options").plugin_data.plugin_name, "text")


class Csv(TrackTest):
    def test_every_value_of_every_table(self):
        run = self.run_ok("failing", ranks=3)
        folder = self.track_ok(run, "--to", "csv")
        for table in ("rounds", "tasks", "evaluations", "clients"):
            with open(os.path.join(folder, table + ".csv"), newline="") as file:
                rows = list(csv.DictReader(file))
            for column, values in self.table(run, table).items():
                texts = [row[column] for row in rows]
                if values.dtype.kind == "S":
                    self.assertEqual(texts, [v.decode() for v in values])
                else:
                    np.testing.assert_array_equal(np.array(texts, dtype=values.dtype), values, column)
        with open(os.path.join(folder, "columns.csv"), newline="") as file:
            units = {(row["table"], row["column"]): row["unit"] for row in csv.DictReader(file)}
        self.assertEqual(units["rounds", "virtual_time_s"], "s")
        with open(os.path.join(folder, "options.csv"), newline="") as file:
            self.assertEqual(dict(csv.reader(file))["method.name"], "semi_async")


class Trace(TrackTest):
    # The keys that the trace event format asks for, by the phase of an event.
    REQUIRED = {"X": {"ph", "pid", "tid", "ts", "dur", "name"}, "i": {"ph", "pid", "tid", "ts", "s", "name"},
                "C": {"ph", "pid", "ts", "name", "args"}, "M": {"ph", "pid", "name", "args"}}

    def check(self, path):
        """Checks a trace against the rules of its format; returns its events."""
        with open(path) as file:
            whole = json.load(file, parse_constant=lambda word: self.fail(word))  # NaN is no JSON
        self.assertIn(whole["displayTimeUnit"], ("ms", "ns"))
        events, last, tracks, named = whole["traceEvents"], 0.0, {}, set()
        for event in events:
            self.assertLessEqual(self.REQUIRED[event["ph"]], set(event), event)
            for key in ("pid", "tid"):
                self.assertIsInstance(event.get(key, 0), int)
            if event["ph"] == "M":
                self.assertIn(event["name"], ("process_name", "process_sort_index", "thread_name", "thread_sort_index"))
                kind = str if event["name"].endswith("_name") else int
                self.assertTrue(all(isinstance(v, kind) for v in event["args"].values()), event)
                if event["name"] == "thread_name":
                    named.add((event["pid"], event["tid"]))
                continue
            self.assertGreaterEqual(event["ts"], last)
            last = event["ts"]
            if event["ph"] == "X":
                self.assertGreaterEqual(event["dur"], 0)
                tracks.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"], event))
            if event["ph"] == "C":
                self.assertTrue(all(isinstance(v, (int, float)) for v in event["args"].values()), event)
            if event["ph"] == "i":
                self.assertIn(event["s"], ("t", "p", "g"))
        self.assertEqual(set(tracks) - named, set())
        for track_, slices in tracks.items():
            for (_, end, a), (begin, _, b) in zip(slices, slices[1:]):
                self.assertGreaterEqual(round(begin * 1000), round(end * 1000), (track_, a, b))  # in nanoseconds
        return events

    def test_format_and_values(self):
        run = self.run_ok("failing", "--server.up_mbps=2", "--server.down_mbps=2", ranks=3)
        path = self.track_ok(run, "--to", "trace")
        events, tasks = self.check(path), self.table(run)
        names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
        processes = {e["args"]["name"].split(" ")[0] for e in events if e["name"] == "process_name"}
        self.assertEqual(processes, {"clients", "server", "ranks"})
        # The compute slices of clients: one for each task that computed, at its time, on its client's track.
        found = {e["args"]["task"]: e for e in events if e["ph"] == "X" and e["name"] == "compute" and e["pid"] == track.CLIENTS}
        for i, task in enumerate(tasks["task"].tolist()):
            if tasks["outcome"][i] != b"merged":
                continue
            slice_ = found[task]
            self.assertTrue(names[slice_["pid"], slice_["tid"]].startswith(f"client {tasks['client'][i]} "))
            self.assertAlmostEqual(slice_["ts"] * 1e-6, tasks["sent_s"][i] + tasks["download_s"][i], delta=2e-9)
            self.assertAlmostEqual(slice_["dur"] * 1e-6, tasks["compute_s"][i], delta=2e-9)
        on_ranks = {e["args"]["task"]: names[e["pid"], e["tid"]] for e in events if e["ph"] == "X" and e["pid"] == track.RANKS}
        for i in np.flatnonzero(tasks["outcome"] == b"merged"):
            self.assertEqual(on_ranks[int(tasks["task"][i])].split(",")[0], f"rank {tasks['rank'][i]}")
        rounds = [e for e in events if e["ph"] == "X" and e["pid"] == track.SERVER]
        self.assertEqual(len(rounds), len(self.column(run, "round", "rounds")))
        failures = sum(e["ph"] == "i" for e in events)
        self.assertEqual(failures, int(np.isin(tasks["outcome"], [f.encode() for f in track.FAILURES]).sum()))
        self.assertGreater(failures, 0)
        self.assertGreater(sum(e["name"] == "server queue" for e in events), 0)


class Follow(TrackTest):
    def test_a_run_that_goes_on(self):
        run = self.path("runs", "failing")
        job = self.begin(self.command("run", self.input, "-q", "--run.rounds=150", "--checkpoint.every=50"))
        while job.poll() is None and not os.path.exists(os.path.join(run, "run.h5")):
            time.sleep(0.02)
        jobs = [self.begin([sys.executable, TRACK, run, "--to", to, "--follow", "--every", "0.1", "-o", self.path(to)])
                for to in ("csv", "tensorboard", "trace")]
        self.assertEqual(finish(job, 120).returncode, 0)
        for tracking in jobs:
            done = finish(tracking, 60)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_scalars(run, scalars(self.event_file(self.path("tensorboard"))))
        with open(self.path("csv", "tasks.csv"), newline="") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual([int(row["task"]) for row in rows], self.column(run, "task").tolist())
        Trace.check(self, self.path("trace"))

    REQUIRED = Trace.REQUIRED

    def test_a_device_is_not_replaced(self):
        run = self.run_ok("failing")
        done = self.track(run, "--to", "trace", "-o", "/dev/stdout")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("traceEvents", json.loads(done.stdout.removesuffix("/dev/stdout\n")))
        os.mkdir(self.path("folder"))
        for place in ("folder", "none/trace.json"):
            done = self.track(run, "--to", "trace", "-o", self.path(place))
            self.assert_sentence(done, 4)
            self.assertNotIn("Errno", done.stderr)
        self.assertEqual([name for name in os.listdir(self.folder.name) if name.endswith(".tmp")], [])

    def test_a_run_that_is_killed(self):
        run = self.path("runs", "failing")
        job = self.begin(self.command("run", self.input, "-q", "--run.rounds=1000000", "--checkpoint.every=1000000"))
        while job.poll() is None and not os.path.exists(os.path.join(run, "run.h5")):
            time.sleep(0.02)
        tracking = self.begin([sys.executable, TRACK, run, "--to", "csv", "--follow", "--every", "0.1"])
        time.sleep(2)
        self.assertIsNone(tracking.poll())
        job.send_signal(signal.SIGKILL)
        job.communicate()
        self.assertEqual(finish(tracking, 60).returncode, 85)


class Optional(TrackTest):
    def test_absent_packages_are_named(self):
        run = self.run_ok("failing")
        for name in ("mlflow", "wandb", "trackio"):
            folder = self.path("none")  # a package of that name that cannot be imported
            os.makedirs(folder, exist_ok=True)
            self.write(os.path.join("none", name + ".py"), "raise ImportError")
            done = self.track(run, "--to", name, env={"PYTHONPATH": folder})
            self.assert_sentence(done, 2)
            self.assertIn(f"needs the Python package {name}", done.stderr)

    @unittest.skipUnless(importlib.util.find_spec("mlflow"), "the package mlflow is not installed")
    def test_mlflow(self):
        run = self.run_ok("failing")
        self.track_ok(run, "--to", "mlflow", "-o", "file:" + self.path("mlruns"), env={"MLFLOW_ALLOW_FILE_STORE": "true"})
        found = {}
        for folder, _, names in os.walk(self.path("mlruns")):
            if os.sep + "metrics" in folder:
                for name in names:
                    with open(os.path.join(folder, name)) as file:  # time, value, step
                        rows = [line.split() for line in file]
                    tag = os.path.relpath(os.path.join(folder, name), folder.split(os.sep + "metrics")[0] + os.sep + "metrics")
                    found[tag] = [(int(row[2]), np.float32(row[1])) for row in rows]
        self.assert_scalars(run, found)

    @unittest.skipUnless(importlib.util.find_spec("trackio"), "the package trackio is not installed")
    def test_trackio(self):
        run = self.run_ok("failing")
        self.track_ok(run, "--to", "trackio", env={"TRACKIO_DIR": self.path("trackio"), "HF_HUB_OFFLINE": "1"})
        self.assertTrue(os.listdir(self.path("trackio")))

    @unittest.skipUnless(importlib.util.find_spec("wandb"), "the package wandb is not installed")
    def test_wandb(self):
        run = self.run_ok("failing")
        self.track_ok(run, "--to", "wandb", "-o", self.path("wandb"), env={"WANDB_MODE": "offline"})
        self.assertTrue([f for _, _, names in os.walk(self.path("wandb")) for f in names if f.endswith(".wandb")])


class Unusual(TrackTest):
    TARGETS = ("csv", "tensorboard", "trace")

    def test_bad_requests_are_one_sentence(self):
        run = self.run_ok("failing")
        for words in ((), (run,), (run, "--to", "paper"), (run, "--to", "csv", "--every", "0")):
            self.assert_sentence(self.track(*words), 2)
        for path in self.unreadable(run):
            self.assert_sentence(self.track(path, "--to", "csv"), 3)
        self.assert_sentence(self.track(run, "--to", "trace", "-o", self.path("no", "such", "folder")), 4)
        self.assert_sentence(self.track(run, "--to", "csv", "-o", self.input), 4)

    def test_an_empty_and_an_unfinished_run(self):
        run = self.run_ok("failing")
        with h5py.File(os.path.join(run, "run.h5"), "r+") as file:
            for table in ("rounds", "tasks", "evaluations"):
                for column in file[table].values():
                    column.resize(0, axis=0)
        done = self.espalier("run", self.input, "--run.name=stopped", "--run.rounds=1000000", "--wall=00:00:02")
        self.assertEqual(done.returncode, 85)
        for path in (run, self.path("runs", "stopped")):
            for to in self.TARGETS:
                self.track_ok(path, "--to", to)


if __name__ == "__main__":
    unittest.main()

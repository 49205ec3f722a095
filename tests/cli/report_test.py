"""tools/report.py: the page says what the run file says, repeats the run by its command, and is right in a real Chromium."""

import html
import os
import re
import shutil
import sys
import unittest
from collections import Counter

import h5py
import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from browser import CHROMIUM, Browser  # noqa: E402
from failing import FailingRunTest  # noqa: E402
from support import ESPALIER, finish  # noqa: E402

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "tools"))
import report  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class ReportTest(FailingRunTest):
    def report(self, *words):
        return finish(self.begin([sys.executable, os.path.join(ROOT, "tools", "report.py"), *words]), 120)

    def page(self, run, *words):
        """Writes the page of a run; returns its path."""
        done = self.report(run, "-o", self.path("page.html"), *words)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.strip(), self.path("page.html"))
        return self.path("page.html")

    def text(self, run, *words):
        with open(self.page(run, *words), encoding="utf-8") as file:
            return file.read()


class Content(ReportTest):
    def test_the_page_says_what_the_file_says(self):
        run = self.run_ok("failing", ranks=3)
        text = self.text(run)
        tasks, evaluations = self.table(run), self.table(run, "evaluations")
        counts = Counter(o.decode() for o in tasks["outcome"])
        for outcome in ("out_of_memory", "crashed", "rejected", "dropped_stale"):
            self.assertGreater(counts[outcome], 0, counts)  # the input makes each kind of failure
        for outcome, count in counts.items():
            self.assertIn(f"<b>{count}</b> {outcome.replace('_', ' ')}", text)
        self.assertIn(f"<b>{evaluations['top1'][-1]:.4g}</b>", text)
        # The row of each client: its counts, and a reason for each kind of failure.
        rows = re.findall(r"<tr>(.*?)</tr>", text.split('<section id="outcomes">')[1].split("</section>")[0], re.S)[1:]
        self.assertEqual(len(rows), 10)
        for client, row in enumerate(rows):
            mine = tasks["client"] == client
            cells = dict(re.findall(r'data-label="([\w ]+)"[^>]*><div>(.*?)</div></td>', row))
            self.assertEqual(re.sub("<.*?>", "", cells["client"]), str(client))
            self.assertEqual(cells["tasks"], str(mine.sum()))
            self.assertEqual(cells["merged"], str((tasks["outcome"][mine] == b"merged").sum()))
            for outcome, words in (("out_of_memory", "did not fit"), ("crashed", "crashed during the task"),
                                   ("rejected", "not finite"), ("dropped_stale", "too stale")):
                count = int((tasks["outcome"][mine] == outcome.encode()).sum())
                self.assertEqual(words in row, count > 0, (client, outcome))
                if count:
                    self.assertIn(f"<b>{count} {outcome.replace('_', ' ')}.</b>", row)
        with open(os.path.join(run, "log.txt")) as file:
            warnings = {line.split(" warning: ")[1].strip() for line in file if " warning: " in line}
        self.assertTrue(warnings)
        shown = re.findall(r"<li>(.*?)</li>", text.split('<section id="warnings">')[1])
        self.assertEqual({html.unescape(line) for line in shown}, warnings)

    def test_the_command_of_the_page_gives_the_same_values(self):
        run = self.run_ok("failing", ranks=3)
        text = self.text(run)
        words = html.unescape(re.search(r'<pre class="command"><code>(.*?)</code>', text).group(1))
        self.assertRegex(words, r"^tools/mpirun.sh -n 3 build/espalier run \S+/config.ini --run.name=failing-again$")
        words = words.replace("tools/mpirun.sh", os.path.join(ROOT, "tools", "mpirun.sh")).replace("build/espalier", ESPALIER)
        done = finish(self.begin(["bash", "-c", words]), 120)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_same(run, self.path("runs", "failing-again"), "--values")

    def test_rounds_without_a_value_do_not_hide_a_curve_of_many_rounds(self):
        run = self.run_ok("failing", "--run.rounds=400", "--record.evaluate_every=100")
        with h5py.File(os.path.join(run, "run.h5"), "r+") as file:
            share = file["rounds/utilisation"]
            share[::3] = np.nan
            share = share[()]
        picture = self.text(run).split("<b>Utilisation</b>")[1].split("</figure>")[0]
        self.assertIn("over 6 rounds each", picture)
        heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", re.search(r'class="line c1" d="(.*?)"', picture)[1])]
        means = [np.nanmean(share[i:i + 6]) for i in range(0, 400, 6)]
        self.assertEqual(len(heights), len(means))
        slope, zero = np.polyfit(means, heights, 1)
        np.testing.assert_allclose(np.array(means) * slope + zero, heights, atol=0.06)  # one decimal of a pixel

    def test_each_curve_of_a_picture_has_its_colour(self):
        run = self.run_ok("exits", "--method.name=depthfl", "--model.name=cnn", "--model.channels=4, 4, 4", "--model.features=8",
                          "--model.exits=3", "--run.rounds=2", "--device.tiny.memory_mb=0")
        pictures = re.findall(r"<figcaption>(.*?)</figcaption>", self.text(run))
        self.assertEqual(len(pictures), 9)
        for picture in pictures:
            colours = re.findall(r'<i class="(c\d)', picture)
            self.assertEqual(len(set(colours)), len(colours), picture)
        self.assertEqual(re.findall(r"</i>(.*?)<", pictures[1]), ["test", "exit 1", "exit 2", "mean of exits", "training"])

    def test_nothing_comes_from_elsewhere(self):
        text = self.text(self.run_ok("failing"))
        self.assertEqual(re.findall(r"https?://[^\s\"'<]+", text), [])
        self.assertEqual(re.findall(r"<(?:link|img|iframe|script src)\b", text), [])

    def test_names_are_text_not_markup(self):
        run = self.run_ok("a<b>&amp;'c'")
        self.assertIn("a&lt;b&gt;&amp;amp;&#x27;c&#x27;", self.text(run))

    def test_default_place_and_a_copy_of_the_file(self):
        run = self.run_ok("failing")
        done = self.report(run)
        self.assertEqual(done.stdout.strip(), os.path.join(run, "report.html"))
        shutil.copy(os.path.join(run, "run.h5"), self.path("copy.h5"))
        text = self.text(self.path("copy.h5"))
        self.assertIn("There is no log.txt beside the run file", text)
        self.assertIn('class="state copy"><b>This is a copy:</b>', text)
        self.assertIn("build/espalier run failing.ini --run.name=failing-again", text)
        os.remove(os.path.join(run, "config.ini"))
        self.assertIn("build/espalier run failing.ini --run.name=failing-again", self.text(run))

    def test_few_rows_if_there_are_many_clients(self):
        text = self.text(self.run_ok("failing"), "--clients", "3")
        self.assertIn("7 more clients are left out", text)
        self.assertIn("3 of 10 clients are shown", text)


    def test_options_that_are_not_at_their_defaults_are_marked(self):
        run = self.run_ok("failing", "--train.momentum=0.25", "--window.grace_s=0")
        text = self.text(run)
        usual = options(self.espalier("run", os.devnull, "--print-config").stdout)
        with h5py.File(os.path.join(run, "run.h5")) as file:
            given = options(file.attrs["config"])
        wanted = {key: (value, usual.get(key, "–") or "empty") for key, value in given.items()
                  if value != usual.get(key) and key not in ("run.name", "run.dir", "data.dir")}
        self.assertEqual(wanted["train.momentum"], ("0.25", "0"))
        self.assertNotIn("window.grace_s", wanted)
        rows = re.findall(r"<tr><td>(.*?)</td><td><b>(.*?)</b></td><td>(.*?)</td></tr>", text.replace("<wbr>", ""))
        self.assertEqual({option: (value, default) for option, value, default in rows}, wanted)
        marks = re.findall(r"<mark>(.*?)</mark>", text)
        self.assertIn("momentum = 0.25", marks)
        self.assertEqual(len(marks), len(wanted))

    def test_without_the_program_the_page_says_that_nothing_is_marked(self):
        run = self.run_ok("failing")
        tool = [sys.executable, os.path.join(ROOT, "tools", "report.py"), run]
        done = finish(self.begin(tool, env={"ESPALIER": self.path("no-program")}), 120)
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(os.path.join(run, "report.html"), encoding="utf-8") as file:
            text = file.read()
        self.assertIn("Options that are not at their defaults are not marked: there is no program", text)
        self.assertNotIn("<mark>", text)

    def test_clients_of_a_run_without_a_round(self):
        """Nothing is merged, so the time of the tasks is the time of which a client is busy."""
        run = self.run_ok("failing")
        with h5py.File(os.path.join(run, "run.h5"), "r+") as file:
            for column in file["rounds"].values():
                column.resize(0, axis=0)
        text = self.text(run)
        tasks = self.table(run)
        end = tasks["finished_s"].max()
        busy = []
        for client in range(10):
            mine = tasks["client"] == client
            length = sum(np.nan_to_num(tasks[part][mine]) for part in ("download_s", "compute_s", "upload_s"))
            busy.append(np.minimum(length, tasks["finished_s"][mine] - tasks["sent_s"][mine]).sum() / end)
        shown = re.findall(r'data-label="busy"><div>(\d+) %', text)
        self.assertEqual(list(map(int, shown)), [round(100 * share) for share in busy])

    def test_the_axis_of_a_single_value(self):
        """The axis of one evaluation goes half of it up and down, never below 0."""
        picture = report.curve("Accuracy", "time", [("test", 1, False, [0.0], [0.14])])
        ticks = [float(t) for t in re.findall(r'text-anchor="end">(.+?)<', picture)]
        self.assertTrue(ticks and min(ticks) >= 0.07 - 1e-9 and max(ticks) <= 0.21 + 1e-9, ticks)
        self.assertNotIn("nan", report.curve("Loss", "time", [("test", 1, False, [0.0, np.nan, 2.0], [1.0, 2.0, 3.0])]))

    def test_devices_without_a_limit_and_one_version(self):
        run = self.run_ok("failing", "--device.fast.down_mbps=0")
        text = self.text(run)
        fleet = text.split("<h3>Fleet</h3>")[1].split("</table>")[0]
        self.assertEqual(re.findall(r'data-label="memory"><div>(.*?)</div>', fleet), ["no cap", "no cap", "15 kB"])
        self.assertEqual(re.findall(r'data-label="down, Mbit/s"><div>(.*?)</div>', fleet), ["no limit", "100", "100"])
        self.assertIn("too stale: 1 version old", text)
        self.assertNotIn("0 B", text.split('<section id="curves">')[0] + text.split('<section id="outcomes">')[1])

    def test_the_size_of_the_model(self):
        self.assertIn("<b>mlp</b>, 5\u202f338 parameters<", self.text(self.run_ok("failing", "--method.widths=0.5")))
        run = self.run_ok("half", "--method.name=heterofl", "--method.widths=0.5")
        whole, largest = 144 * 32 + 32 + 32 * 16 + 16 + 160 + 10, 144 * 16 + 16 + 16 * 8 + 8 + 80 + 10
        self.assertIn(f"<b>mlp</b>, {whole:,} parameters<".replace(",", "\u202f").replace("\u202f ", ", "), self.text(run))
        shutil.copy(os.path.join(run, "run.h5"), self.path("copy.h5"))
        self.assertIn(f"{largest:,} parameters in the largest submodel".replace(",", "\u202f"), self.text(self.path("copy.h5")))


class Unusual(ReportTest):
    def test_an_unfinished_run(self):
        done = self.espalier("run", self.input, "--run.rounds=1000000", "--wall=00:00:02")
        self.assertEqual(done.returncode, 85, done.stderr)
        text = self.text(self.path("runs", "failing"))
        self.assertIn("stopped at version", text)
        self.assertIn('class="state stopped"><b>This run is not finished:</b>', text)
        rounds = len(self.column(self.path("runs", "failing"), "round", "rounds"))
        self.assertIn(f"The page shows {rounds:,} of 1000000 rounds.".replace(",", "\u202f"), text)

    def test_a_failed_run(self):
        done = self.espalier("run", self.input, *(f"--device.{d}.memory_mb=0.001" for d in ("fast", "slow", "tiny")))
        self.assertEqual(done.returncode, 6, done.stderr)
        text = self.text(self.path("runs", "failing"))
        why = done.stderr.split("error: ")[1].strip()
        self.assertIn(f'class="state failed"><b>This run failed:</b> {html.escape(why)}. The page shows 0 of 8 rounds.', text)
        self.assertNotIn("It was sent no task", text)

    def test_a_run_being_written(self):
        run = self.path("runs", "failing")
        job = self.begin(self.command("run", self.input, "-q", "--run.rounds=1000000", "--wall=00:00:06", "--checkpoint.every=1000"))
        try:
            while job.poll() is None and not os.path.exists(os.path.join(run, "run.h5")):
                pass
            self.assertIn("running on this machine", self.text(run))
        finally:
            job.terminate()
            finish(job, 60)

    def test_an_empty_run(self):
        run = self.run_ok("failing")
        with h5py.File(os.path.join(run, "run.h5"), "r+") as file:
            for table in ("rounds", "tasks", "evaluations"):
                for column in file[table].values():
                    column.resize(0, axis=0)
        text = self.text(run)
        self.assertIn("No round is recorded yet", text)
        self.assertIn("No task is recorded yet", text)

    def test_bad_requests_are_one_sentence(self):
        run = self.run_ok("failing")
        for words in ((), (run, "--clients", "0"), (run, "--clients", "many"), (run, "--no-such-flag")):
            self.assert_sentence(self.report(*words), 2)
        self.assert_sentence(self.report(self.path("nowhere")), 3)
        self.assert_sentence(self.report(self.folder.name), 3)
        self.assert_sentence(self.report(self.input), 3)
        self.assert_sentence(self.report(run, "-o", self.path("no", "such", "folder.html")), 4)
        before = os.listdir(self.folder.name)
        self.assert_sentence(self.report(run, "-o", self.path("runs")), 4)  # a folder
        self.assertEqual(os.listdir(self.folder.name), before)

    def test_damaged_and_newer_files(self):
        run = self.run_ok("failing")
        *others, newer = self.unreadable(run)
        for path in others:
            self.assert_sentence(self.report(path), 3)
        done = self.report(newer)
        self.assert_sentence(done, 3)
        self.assertIn("newer format", done.stderr)


@unittest.skipUnless(CHROMIUM, "no Chromium; tools/setup.sh --tests installs it")
class InChromium(ReportTest):
    @classmethod
    def setUpClass(cls):
        cls.browser = Browser()

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()

    def check(self, page, width, scheme, curves):
        browser = self.browser
        browser.open(page, width, scheme)
        self.assertEqual(browser.value("document.documentElement.clientWidth"), width)
        self.assertEqual(browser.errors, [])
        self.assertEqual([url for url in browser.requests if not url.startswith("file://" + page)], [])
        self.assertLessEqual(browser.value("document.documentElement.scrollWidth"), width)
        # Each picture has a size, lies within the window, and holds lines or bars.
        pictures = browser.value("""[...document.querySelectorAll("svg")].map((svg) => { const r = svg.getBoundingClientRect();
            return [r.width, r.height, r.left, r.right, svg.querySelectorAll("path[d]:not([d=''])").length]; })""")
        self.assertEqual(len(pictures), curves + 1)
        for w, h, left, right, paths in pictures:
            self.assertGreater(w, 200)
            self.assertGreater(h, 80)
            self.assertGreaterEqual(left, 0)
            self.assertLessEqual(right, width)
            self.assertGreater(paths, 0)
        # No text is cut off at the right.
        outside = browser.value(f"""[...document.querySelectorAll("p, b, td, th, dd, li, text, button, figcaption")].filter((e) =>
            e.getBoundingClientRect().right > {width} + 0.5).map((e) => e.textContent)""")
        self.assertEqual(outside, [])
        paper = browser.value("getComputedStyle(document.body).backgroundColor")
        ink = browser.value("getComputedStyle(document.body).color")
        return luminance(paper), luminance(ink)

    def test_wide_and_narrow_light_and_dark(self):
        page = self.page(self.run_ok("failing", ranks=3))
        for width in (1200, 760, 400):
            for scheme in ("light", "dark"):
                with self.subTest(width=width, scheme=scheme):
                    paper, ink = self.check(page, width, scheme, 9)
                    self.assertEqual(paper > ink, scheme == "light")
                    # WCAG's contrast ratio; 7 is its highest level.
                    self.assertGreater((max(paper, ink) + 0.05) / (min(paper, ink) + 0.05), 7)

    def test_the_chart_zooms_and_tells(self):
        run = self.run_ok("failing")
        browser = self.browser
        browser.open(self.page(run), 1200)

        def bars():
            return browser.value("""[...document.querySelectorAll("#chart path.compute")].map((p) => p.getAttribute("d").split("M").length
                - 1)[0]""")

        def settled():
            browser.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

        whole = bars()
        self.assertGreater(whole, 10)
        browser.value("document.querySelector('button[data-do=all]').click()")
        settled()
        self.assertEqual(bars(), whole)
        for _ in range(3):
            browser.value("document.querySelector('button[data-do=in]').click()")
        settled()
        self.assertLess(bars(), whole)
        browser.value("document.getElementById('chart').focus()")
        browser.press("0")
        settled()
        self.assertEqual(bars(), whole)
        x, y = browser.value("""(() => { const c = document.getElementById("chart"); c.scrollIntoView(); const r = c.getBoundingClientRect();
            return [r.left, r.top]; })()""")
        tasks = self.table(run)
        for step in range(0, 1100, 20):  # somewhere in the first lane is a task of client 0
            browser.mouse("mouseMoved", x + 100 + step, y + 18)
            told = browser.value("document.getElementById('told').textContent")
            if told.startswith("Client 0"):
                break
        task = int(re.search(r"task (\d+)", told).group(1))
        row = int(np.flatnonzero(tasks["task"] == task)[0])
        self.assertEqual(tasks["client"][row], 0)
        merged = tasks["outcome"][row] == b"merged"
        self.assertIn(f"merged in version {tasks['merged_version'][row]}" if merged else
                      tasks["outcome"][row].decode().replace("_", " "), told)
        self.assertEqual(browser.errors, [])

    def test_the_chart_zooms_and_moves_by_keys_and_mouse(self):
        run = self.run_ok("failing")
        browser = self.browser
        browser.open(self.page(run), 1200)
        left, top = browser.value("""(() => { const c = document.getElementById("chart"); c.scrollIntoView(); c.focus();
            const r = c.getBoundingClientRect(); return [r.left, r.top]; })()""")

        def ticks():
            """The times that the axis names, once the chart is drawn."""
            browser.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
            return browser.value("[...document.querySelectorAll('#chart text[text-anchor=middle]')].map((t) => +t.textContent)")

        whole = ticks()
        for key, smaller in (("+", True), ("-", False)):
            browser.press(key)
            self.assertEqual(ticks()[-1] - ticks()[0] < whole[-1] - whole[0], smaller, key)
        for zoom in (lambda: [browser.mouse(kind, left + 600, top + 30, clicks) for clicks in (1, 2) for kind in
                              ("mousePressed", "mouseReleased")],
                     lambda: [browser.wheel(left + 600, top + 30, -100, control=True) for _ in range(4)]):
            zoom()
            near = ticks()
            self.assertLess(near[-1] - near[0], whole[-1] - whole[0])
            browser.press("ArrowRight")
            later = ticks()
            self.assertGreater(later[0], near[0])
            browser.press("ArrowLeft")
            for kind, x in (("mousePressed", 800), ("mouseMoved", 500), ("mouseReleased", 500)):
                browser.mouse(kind, left + x, top + 30)
            self.assertGreater(ticks()[-1], near[-1])  # dragged to the left: later times
            browser.press("0")
            self.assertEqual(ticks(), whole)
        browser.wheel(left + 600, top + 30, -100)  # without Ctrl the wheel scrolls the page
        self.assertEqual(ticks(), whole)
        self.assertEqual(browser.errors, [])

    def test_an_empty_run_gives_no_error(self):
        run = self.run_ok("failing")
        with h5py.File(os.path.join(run, "run.h5"), "r+") as file:
            for table in ("rounds", "tasks", "evaluations"):
                for column in file[table].values():
                    column.resize(0, axis=0)
        self.browser.open(self.page(run), 400)
        self.assertEqual(self.browser.errors, [])
        self.assertLessEqual(self.browser.value("document.documentElement.scrollWidth"), 400)


def options(text):
    """The options of an input, "section.key" to value."""
    found, section = {}, ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip()[1:-1]
        elif "=" in line:
            key, value = line.split("=", 1)
            found[f"{section}.{key.strip()}"] = value.strip()
    return found


def luminance(colour):
    """WCAG's relative luminance of "rgb(r, g, b)"."""
    channels = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear))


if __name__ == "__main__":
    unittest.main()

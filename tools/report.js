// Draws what each client did when, for the part of the run in view; the page of report.py contains this script.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const box = document.getElementById("chart");
  if (!box) return;
  const told = document.getElementById("told");
  const LANE = 20, BAR = 13, TOP = 8, AXIS = 34;
  const [LANE_OF, TASK, SENT, , , UPLOADED, FINISHED, OUTCOME, MERGED, STALENESS, RANK] = Array(11).keys();
  const PARTS = ["download", "compute", "upload", "server"];
  const end = data.end || 1;
  const firstRounds = () => Math.min(end, data.merges.length > 5 ? data.merges[4] * 1.02 : end);
  const lanes = data.clients.map(() => []);
  data.tasks.forEach((task) => lanes[task[LANE_OF]].push(task));
  let from = 0, to = data.tasks.length > 400 ? firstRounds() : end, left = 0, width = 0;

  const unit = (span) => [["days", 172800, 86400], ["h", 7200, 3600], ["min", 180, 60], ["s", 0.5, 1]].find((u) => span >= u[1]) || ["ms", 0, 1e-3];
  const place = (t) => left + (t - from) / (to - from) * (width - left - 10);
  const time = (x) => from + (x - left) / (width - left - 10) * (to - from);
  const words = (t) => t >= 100 ? t.toFixed(1) + " s" : t >= 0.1 ? t.toFixed(3) + " s" : (t * 1e3).toFixed(2) + " ms";
  const escaped = (text) => text.replace(/[&<>"]/g, (c) => "&#" + c.charCodeAt(0) + ";");

  function axis(height) {
    const [name, , length] = unit(to - from);
    const low = from / length, high = to / length, wanted = Math.max(2, Math.floor(width / 110));
    let step = 10 ** Math.floor(Math.log10((high - low) / wanted));
    step *= [1, 2, 5, 10].find((m) => (high - low) / (step * m) <= wanted);
    let out = "";
    for (let i = Math.ceil(low / step); i * step <= high; ++i) {
      const x = place(i * step * length).toFixed(1);
      out += `<line class="grid" x1="${x}" x2="${x}" y1="${TOP}" y2="${height - AXIS}"/>` +
        `<text x="${x}" y="${height - AXIS + 15}" text-anchor="middle">${+(i * step).toPrecision(8)}</text>`;
    }
    return out + `<text x="${width - 10}" y="${height - 4}" text-anchor="end">virtual time (${name})</text>`;
  }

  // One path for each kind of bar; a bar that lies within a pixel already drawn is left out.
  function bars() {
    const paths = ["", "", "", ""];
    let crosses = "";
    lanes.forEach((tasks, lane) => {
      const y = TOP + lane * LANE + (LANE - BAR) / 2;
      const drawn = [-1, -1, -1, -1];
      for (const task of tasks) {
        if (task[SENT] > to || task[FINISHED] < from) continue;
        PARTS.forEach((_, i) => {
          const begin = i < 3 ? task[SENT + i] : task[UPLOADED], stop = i < 3 ? task[SENT + i + 1] : task[FINISHED];
          if (stop <= begin || stop < from || begin > to || i === 3 && stop - begin < 1e-8) return;
          const x0 = Math.max(place(begin), left), x1 = Math.min(Math.max(place(stop), x0 + 0.6), width - 10);
          if (x1 <= drawn[i] || x1 <= x0) return;
          drawn[i] = Math.ceil(x1 * 2) / 2;
          const thin = i === 3 ? 4 : 0;
          paths[i] += `M${x0.toFixed(2)} ${y + thin}H${x1.toFixed(2)}v${BAR - 2 * thin}H${x0.toFixed(2)}z`;
        });
        if (data.failed.includes(task[OUTCOME]) && task[FINISHED] >= from && task[FINISHED] <= to) {
          const x = place(task[FINISHED]).toFixed(1), middle = y + BAR / 2;
          crosses += `M${x - 4} ${middle - 4}l8 8m0 -8l-8 8`;
        }
      }
    });
    return PARTS.map((part, i) => `<path class="${part}" d="${paths[i]}"/>`).join("") + `<path class="cross" d="${crosses}"/>`;
  }

  function draw() {
    width = box.clientWidth;
    const narrow = width < 560;
    const labels = data.clients.map(([c, device]) => narrow ? String(c) : `client ${c} (${device})`);
    left = Math.min(170, 14 + 6.6 * Math.max(...labels.map((l) => l.length)));
    const height = TOP + lanes.length * LANE + AXIS;
    let merges = "", last = -9;
    for (const t of data.merges) {
      const x = place(t);
      if (t < from || t > to || x - last < 3) continue;
      last = x;
      merges += `M${x.toFixed(1)} ${TOP}V${height - AXIS}`;
    }
    const names = labels.map((l, i) => `<text class="lane" x="8" y="${TOP + i * LANE + LANE / 2 + 4}">${escaped(l)}</text>`).join("");
    box.innerHTML = `<svg width="${width}" height="${height}" role="img" aria-label="what each client did when">` +
      axis(height) + `<path class="mergeline" d="${merges}"/>` + bars() + names + "</svg>";
  }

  function view(a, b) {
    const span = Math.min(Math.max(b - a, end * 1e-6), end);
    from = Math.min(Math.max(a, 0), end - span);
    to = from + span;
    requestAnimationFrame(draw);
  }
  const zoom = (factor, at = (from + to) / 2) => view(at - (at - from) * factor, at + (to - at) * factor);
  const move = (share) => view(from + share * (to - from), to + share * (to - from));
  const acts = { in: () => zoom(0.5), out: () => zoom(2), left: () => move(-0.4), right: () => move(0.4), all: () => view(0, end),
    first: () => view(0, firstRounds()) };

  function tell(event) {
    const area = box.getBoundingClientRect();
    const lane = Math.floor((event.clientY - area.top - TOP) / LANE), t = time(event.clientX - area.left), slack = (to - from) / width * 3;
    const task = (lanes[lane] || []).find((k) => k[SENT] - slack <= t && t <= k[FINISHED] + slack);
    if (!task) return;
    const spans = ["download", "compute", "upload"].map((part, i) => `${part} ${words(task[SENT + i + 1] - task[SENT + i])}`).join(", ");
    const outcome = data.outcomes[task[OUTCOME]].replaceAll("_", " ");
    const result = outcome === "merged" ? `merged in version ${task[MERGED]}, staleness ${task[STALENESS]}` : outcome;
    told.textContent = `Client ${data.clients[lane][0]} (${data.clients[lane][1]}), task ${task[TASK]}: sent at ${words(task[SENT])}; ` +
      `${spans}; ${result}. Computed by rank ${task[RANK]}.`;
  }

  let grip = null;
  box.addEventListener("pointerdown", (e) => { grip = [e.clientX, from, to]; tell(e); });
  window.addEventListener("pointerup", () => { grip = null; });
  window.addEventListener("pointercancel", () => { grip = null; });
  box.addEventListener("pointermove", (e) => {
    if (!grip) return tell(e);
    const shift = (grip[0] - e.clientX) / (width - left - 10) * (grip[2] - grip[1]);
    view(grip[1] + shift, grip[2] + shift);
  });
  box.addEventListener("dblclick", (e) => zoom(0.4, time(e.clientX - box.getBoundingClientRect().left)));
  box.addEventListener("wheel", (e) => {
    if (!e.ctrlKey && !e.metaKey) return;
    e.preventDefault();
    zoom(e.deltaY > 0 ? 1.25 : 0.8, time(e.clientX - box.getBoundingClientRect().left));
  }, { passive: false });
  box.addEventListener("keydown", (e) => {
    const act = { "+": "in", "=": "in", "-": "out", ArrowLeft: "left", ArrowRight: "right", 0: "all" }[e.key];
    if (!act || e.ctrlKey || e.metaKey) return;
    e.preventDefault();
    acts[act]();
  });
  document.querySelectorAll("button[data-do]").forEach((b) => b.addEventListener("click", acts[b.dataset.do]));
  if (data.note) told.before(Object.assign(document.createElement("p"), { className: "quiet", textContent: data.note + "." }));
  new ResizeObserver(() => { if (box.clientWidth !== width) draw(); }).observe(box);
  draw();
})();

// The order in which everything is drawn, and what a reader does.
const still = matchMedia("(prefers-reduced-motion: reduce)");
const idle = () => new Promise((done) => (window.requestIdleCallback ? requestIdleCallback(done, { timeout: 150 }) : setTimeout(done, 20)));
const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
let drawing = 0;

function elsewhere(figure, set, p) { // the slices along other lines than those through the centre
  const [j, i] = [Number(state[`row${p}`]), Number(state[`col${p}`])], { x, y } = data.planes[p];
  const across = state[`cut${p}`] === "diagonals";
  const moved = [across || state[`row${p}`] !== initial[`row${p}`], across || state[`col${p}`] !== initial[`col${p}`]];
  if (!moved.includes(true)) return figure;
  const copy = structuredClone(figure), panel = (trace) => (trace.xaxis === "x2" ? 1 : 0);
  const curves = copy.data.filter((trace) => trace.mode !== "none" && !trace.meta);
  const lines = across
    ? [(rows) => rows.map((row, n) => row[n]), (rows) => rows.map((row, n) => row[row.length - 1 - n]).reverse()] // by x
    : [(rows) => rows[j], (rows) => rows.map((row) => row[i])];
  set.surfaces.forEach((one, k) => lines.forEach((line, n) => {
    const loss = line(one.drawn).map((v) => (Number.isNaN(onAxis(v)) ? null : v));
    const text = line(one.loss).map((v, at) => plusMinus(v, line(one.error)[at]));
    if (moved[n]) Object.assign(curves[2 * k + n], { y: loss, text }, across ? { x } : {});
  }));
  copy.data = copy.data.filter((trace) => curves.includes(trace) || !moved[panel(trace)]);
  const [first, last] = [brief(y[0]), brief(y.at(-1))], axes = ["xaxis", "xaxis2"];
  const places = across
    ? [`on the diagonal from y = ${first} to ${last}`, `on the diagonal from y = ${last} to ${first}`]
    : [`at y = ${brief(y[j])}`, `at x = ${brief(x[i])}`];
  const names = axes.map((axis) => copy.layout[axis].title.text.replace(/, at [xy] = .*$/, ""));
  axes.forEach((axis, n) => { if (moved[n]) copy.layout[axis].title.text = `${names[across ? 0 : n]}, ${places[n]}`; });
  return copy;
}
async function drawSlices(p) {
  const plane = data.planes[p], set = setOf({ plane, p });
  for (const [part, figures] of [["slices", set?.slices], ["run", set?.run]]) {
    const div = byId(`p${p}-${part}`);
    let figure = figures?.[state.loss];
    if (div) div.closest("figure").hidden = !figure;
    if (figure && part === "slices") figure = elsewhere(figure, set, p);
    if (figure && plane.crowded && part === "slices") { // only what has a picture
      const shown = new Set(columns.filter((column) => column.p === p).map(nameOf));
      figure = { ...figure, data: figure.data.filter((trace) => shown.has(trace.meta?.[1] ?? trace.legendgroup)) };
    }
    await chart(`p${p}-${part}`, figure, { clipped: part === "slices" });
    if (part === "run") cursor(div);
  }
}
async function drawCurves() {
  for (let p = 0; p < data.planes.length; p++) await drawSlices(p);
  for (let n = 0; n < data.lines.length; n++) {
    await chart(`line-${n}`, data.lines[n][state.loss] ?? data.lines[n].linear, { clipped: true });
  }
}
async function drawDifferences() {
  for (let n = 0; n < data.differences.length; n++) {
    await chart(`difference-${n}`, colored(data.differences[n]), { margin: { l: 62, r: 10, t: 8, b: 96 } });
  }
}
async function drawFixed() { // without switches of the surfaces
  await drawDifferences();
  for (const id of ["eigenvalues", "density", "layers", "curvature-trace", "congruence"]) await chart(id, data[id]);
  for (const id of ["curvature-trace", "congruence"]) cursor(byId(id));
}
async function draw(all = true) {
  const mine = ++drawing;
  const stale = () => mine !== drawing;
  document.body.dataset.drawn = "";
  showState();
  for (const column of columns) {
    await drawContour(column);
    await idle();
    if (stale()) return;
  }
  data.planes.forEach((_, p) => tellReading(p));
  await drawCurves();
  if (all) await drawFixed();
  if (stale()) return;
  document.body.dataset.drawn = "contours";
  for (const column of [...alive]) {
    await idle();
    if (stale()) return;
    await drawScene(column);
  }
  listFigures();
  data.planes.forEach((_, p) => { if (state[`epoch${p}`] !== initial[`epoch${p}`]) showEpoch(p); });
  document.body.dataset.drawn = "all";
}

function showEpoch(p) {
  if (besides(p).some(runOf)) readEpoch(epochOf(p));
}

// ---- play: the first picture goes through the checkpoints, or a mark through the epochs of a run ----
const playing = new Set(); // planes
async function step(p) {
  const column = columns.find((one) => one.p === p), epoch = byId(`p${p}-run`) && document.getElementsByName(`epoch${p}`)[0];
  if (epoch) {
    state[epoch.name] = String((Number(state[epoch.name]) + 1) % (Number(epoch.max) + 1));
    showState();
    return showEpoch(p);
  }
  state[column.id] = String((pickOf(column) + 1) % column.plane.columns.length);
  showState();
  await redraw(column);
}
async function redraw(column) {
  await drawContour(column);
  await drawScene(column);
  tellReading(column.p);
  tellSliders();
  await drawSlices(column.p);
}
async function play(p) {
  const button = byId(`p${p}-play`);
  if (still.matches) await step(p); // no motion: one at each press
  else if (playing.has(p)) playing.delete(p);
  else {
    playing.add(p);
    button.textContent = "Stop";
    while (playing.has(p)) {
      await step(p);
      await wait(400);
    }
    motion();
  }
  writeFragment();
}
function motion() {
  if (still.matches) playing.clear();
  for (const button of document.querySelectorAll('[id$="-play"]')) button.textContent = still.matches ? "Next" : "Play";
}

document.addEventListener("change", async (event) => {
  const { name, value } = event.target;
  if (!(name in state)) return;
  state[name] = value;
  writeFragment();
  const column = columns.find((one) => one.id === name);
  if (name === "camera") {
    eye = null;
    writeFragment();
    turn();
  } else if (column) {
    document.body.dataset.drawn = "";
    await redraw(column);
    document.body.dataset.drawn = "all";
  } else if (/^(row|col|cut)\d/.test(name)) {
    tellSliders();
    drawSlices(Number(name.slice(3)));
  } else if (name.startsWith("epoch")) showEpoch(Number(name.slice(5)));
  else if (name === "difference") drawDifferences();
  else draw(false);
});
document.addEventListener("input", ({ target }) => {
  if (target.type !== "range") return;
  state[target.name] = target.value;
  tellSliders();
  if (target.name.startsWith("epoch")) showEpoch(Number(target.name.slice(5)));
});
data.planes.forEach((_, p) => byId(`p${p}-play`)?.addEventListener("click", () => play(p)));
for (const query of [dark, narrow]) query.addEventListener("change", () => draw());
still.addEventListener("change", motion);
addEventListener("hashchange", () => { readFragment(); draw(); });
byId("reset")?.addEventListener("click", () => {
  try { history.replaceState(null, "", "#"); } catch { location.hash = ""; }
  switched.clear();
  readFragment();
  draw();
});
for (const link of document.querySelectorAll(".skip a")) {
  const goal = document.querySelector(link.getAttribute("href"));
  if (!goal) link.remove();
  link.addEventListener("click", (event) => { // the fragment is the view's
    event.preventDefault();
    goal.tabIndex = -1;
    goal.focus();
  });
}
addEventListener("beforeprint", () => {
  document.documentElement.dataset.paper = "yes";
  for (const div of document.querySelectorAll(".js-plotly-plot")) onPaper(div);
  for (const table of document.querySelectorAll(".scroll table")) { // all columns on the sheet
    table.style.zoom = Math.min(1, table.parentElement.clientWidth / table.offsetWidth) || 1;
  }
});
addEventListener("afterprint", () => {
  delete document.documentElement.dataset.paper;
  for (const table of document.querySelectorAll(".scroll table")) table.style.zoom = "";
  draw();
});

readFragment();
motion();
for (const column of columns) {
  if (webgl && alive.length < MOST_SCENES) alive.push(column);
  else placeholder(column);
}
draw();

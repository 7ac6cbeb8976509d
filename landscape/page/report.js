// The order in which everything is drawn, and what a reader does.
const still = matchMedia("(prefers-reduced-motion: reduce)");
const idle = () => new Promise((done) => (window.requestIdleCallback ? requestIdleCallback(done, { timeout: 150 }) : setTimeout(done, 20)));
const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
let drawing = 0;

function elsewhere(figure, set, p) { // the slices through another row or column than the centre's
  const [j, i] = [Number(state[`row${p}`]), Number(state[`col${p}`])];
  const moved = [state[`row${p}`] !== initial[`row${p}`], state[`col${p}`] !== initial[`col${p}`]];
  if (!moved.includes(true)) return figure;
  const copy = structuredClone(figure), panel = (trace) => (trace.xaxis === "x2" ? 1 : 0);
  const curves = copy.data.filter((trace) => trace.mode !== "none" && !trace.meta);
  set.surfaces.forEach((one, k) => {
    const cuts = [[one.drawn[j], one.error[j]], [one.drawn.map((row) => row[i]), one.error.map((row) => row[i])]];
    cuts.forEach(([loss, error], n) => {
      const y = loss.map((v) => (Number.isNaN(onAxis(v)) ? null : v));
      if (moved[n]) Object.assign(curves[2 * k + n], { y, customdata: error });
    });
  });
  copy.data = copy.data.filter((trace) => curves.includes(trace) || !moved[panel(trace)]);
  const { x, y } = data.planes[p];
  [["xaxis", "y", y[j]], ["xaxis2", "x", x[i]]].forEach(([axis, across, at], n) => {
    if (moved[n]) copy.layout[axis].title.text = copy.layout[axis].title.text.replace(/, at [xy] = .*$/, `, at ${across} = ${brief(at)}`);
  });
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
  }
}
async function drawCurves() {
  for (let p = 0; p < data.planes.length; p++) await drawSlices(p);
  for (let n = 0; n < data.lines.length; n++) {
    await chart(`line-${n}`, data.lines[n][state.loss] ?? data.lines[n].linear, { clipped: true });
  }
}
async function drawFixed() { // without switches
  for (let n = 0; n < data.differences.length; n++) {
    await chart(`difference-${n}`, data.differences[n], { margin: { l: 62, r: 10, t: 8, b: 96 } });
  }
  await chart("eigenvalues", data.eigenvalues);
  for (const id of ["density", "curvature-trace", "congruence"]) await chart(id, data[id]);
  for (const id of ["curvature-trace", "congruence"]) cursor(byId(id));
}
function cursor(div) { // pointing at an epoch in one panel reads it in all
  if (!div?.on || div.dataset.cursor) return;
  div.dataset.cursor = "on";
  const silently = true; // or it would answer itself
  div.on("plotly_hover", (event) => Plotly.Fx.hover(div, { xval: event.points[0].x }, Object.keys(div._fullLayout._plots), silently));
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
  document.body.dataset.drawn = "all";
}

// ---- play: the first picture goes through the checkpoints of a run ----
function stopPlay(button) {
  button.setAttribute("aria-pressed", "false");
  button.textContent = "Play";
}
async function play(p) {
  const button = byId(`p${p}-play`), column = columns.find((one) => one.p === p);
  if (button.getAttribute("aria-pressed") === "true") return stopPlay(button);
  button.setAttribute("aria-pressed", "true");
  button.textContent = "Stop";
  while (button.getAttribute("aria-pressed") === "true" && !still.matches) {
    state[column.id] = String((pickOf(column) + 1) % column.plane.columns.length);
    showState();
    await drawContour(column);
    await drawScene(column);
    await drawSlices(p);
    await wait(400);
  }
  stopPlay(button);
  writeFragment();
}
function motion() {
  for (const button of document.querySelectorAll('[id$="-play"]')) {
    button.disabled = still.matches;
    if (still.matches) byId(button.id + "ed").textContent = "is off: your system asks for less motion. Choose a checkpoint instead.";
  }
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
    await drawContour(column);
    await drawScene(column);
    await drawSlices(column.p);
    document.body.dataset.drawn = "all";
  } else if (/^(row|col)\d/.test(name)) drawSlices(Number(name.slice(3)));
  else draw(false);
});
document.addEventListener("input", ({ target }) => {
  if (target.type !== "range") return;
  state[target.name] = target.value;
  tellSliders();
});
data.planes.forEach((_, p) => byId(`p${p}-play`)?.addEventListener("click", () => play(p)));
for (const query of [dark, narrow]) query.addEventListener("change", () => draw());
still.addEventListener("change", motion);
addEventListener("hashchange", () => { readFragment(); draw(); });
addEventListener("beforeprint", () => { for (const div of document.querySelectorAll(".js-plotly-plot")) Plotly.relayout(div, { "font.color": "#000000" }); });
addEventListener("afterprint", () => draw());

readFragment();
motion();
for (const column of columns) {
  if (webgl && alive.length < MOST_SCENES) alive.push(column);
  else placeholder(column);
}
draw();

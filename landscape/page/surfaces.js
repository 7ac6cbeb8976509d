// The pictures of surfaces: columns with a scene and a contour, linked cameras, at most four WebGL contexts.
const MOST_SCENES = 4;
const sets = data.planes.flatMap((plane) => plane.members.flatMap((member) => Object.values(member)));
for (const one of sets.flatMap((set) => set.surfaces)) {
  for (const name of ["loss", "error", "accuracy"]) one[name] = unpack(one[name]);
  one.drawn = one.loss;
  if (one.cells.length) one.drawn = one.loss.map((row) => row.slice());
  one.cells.forEach(([j, i]) => { one.drawn[j][i] = NaN; });
  one.lowest = null; // the cell of the lowest loss
  one.drawn.forEach((row, j) => row.forEach((v, i) => {
    if (!Number.isNaN(v) && (!one.lowest || v < one.drawn[one.lowest[0]][one.lowest[1]])) one.lowest = [j, i];
  }));
}
const columns = data.planes.flatMap((plane, p) =>
  [...document.querySelectorAll(`[id^="p${p}c"][id$="-scene"]`)].map((div, c) => ({ id: div.id.replace("-scene", ""), plane, p, c })));
let alive = []; // columns that hold a WebGL context, oldest first
let linking = false;

const setOf = (column) => column.plane.members[Number(state[`plane${column.p}`] ?? 0)][state.split];
const pickOf = (column) => Number(state[column.id] ?? column.c); // which checkpoint it shows
const surfaceOf = (column) => setOf(column)?.surfaces.find((one) => one.column === pickOf(column));
const nameOf = (column) => column.plane.columns[pickOf(column)].name;
const onAxis = (v) => (state.loss === "log" ? (v > 0 ? Math.log10(v) : NaN) : v);
const offAxis = (v) => (state.loss === "log" ? 10 ** v : v);

function viewOf(column) {
  const view = (state.scale === "own" ? surfaceOf(column).views : setOf(column).views)[state.loss];
  const cut = clipLoss();
  if (cut === null || onAxis(cut) >= view.high) return view;
  const high = Math.max(onAxis(cut), view.low + view.step), room = 0.16 * (high - view.low);
  const kept = view.ticks.map((tick, n) => [tick, view.labels[n]]).filter(([tick]) => tick < high - room);
  const step = view.step / Math.max(1, Math.round((view.high - view.low) / (high - view.low)));
  return {
    ...view, high, step, cut: offAxis(high),
    ticks: [...kept.map(([tick]) => tick), high], labels: [...kept.map(([, label]) => label), `≥ ${brief(offAxis(high))}`],
  };
}
function ringOf(one) { // the loss where a reader wants a ring; null for none
  const rise = Number(state.ring);
  return rise > 0 && one.centre !== null ? one.centre + rise : null;
}
const reaches = (one, ring) => one.drawn.some((row) => row.some((v) => v >= ring));
function crossings(x, y, z, level) { // where a surface has this height, cell by cell, as pieces of a line
  const pieces = [];
  for (let j = 0; j + 1 < y.length; j++) for (let i = 0; i + 1 < x.length; i++) {
    const corners = [[j, i], [j, i + 1], [j + 1, i + 1], [j + 1, i]];
    const points = corners.flatMap(([j0, i0], n) => {
      const [j1, i1] = corners[(n + 1) % 4], [a, b] = [z[j0][i0], z[j1][i1]], part = (level - a) / (b - a);
      if ((a < level) === (b < level) || Number.isNaN(part)) return [];
      return [[x[i0] + part * (x[i1] - x[i0]), y[j0] + part * (y[j1] - y[j0]), level]];
    });
    if (points.length % 2) continue; // at a hole
    for (let n = 0; n < points.length; n += 2) pieces.push(points[n], points[n + 1], [null, null, null]);
  }
  const [xs, ys, zs] = [0, 1, 2].map((axis) => pieces.map((point) => point[axis]));
  return { x: xs, y: ys, z: zs };
}
function marks(one, height, solid) { // the ring, the lowest cell, and in 3-D the cell that is read
  const ring = ringOf(one), found = [], white = "#ffffff";
  const level = ring === null ? NaN : onAxis(ring), z = one.drawn.map((row) => row.map(onAxis));
  const { z: heights, ...line } = crossings(one.x, one.y, z, level), shown = ring !== null && reaches(one, ring);
  const shared = { mode: "lines", visible: shown, hoverinfo: "skip", meta: "ring", line: { color: white, width: solid ? 5 : 2.5 } };
  found.push(solid ? { type: "scatter3d", ...line, z: heights, ...shared } : { type: "scatter", ...line, ...shared });
  if (one.lowest) {
    const [j, i] = one.lowest, loss = one.loss[j][i], where = { x: [one.x[i]], y: [one.y[j]] };
    found.push({
      ...(solid ? { type: "scatter3d", ...where, z: [height(loss)] } : { type: "scatter", ...where, cliponaxis: false }),
      mode: "markers", marker: { symbol: "diamond-open", color: white, size: solid ? 6 : 13, line: { color: white, width: 2 } },
      hovertemplate: `lowest cell: loss ${plusMinus(loss, one.error[j][i])}<extra></extra>`, meta: "lowest",
    });
  }
  if (solid) {
    const marker = { size: 7, color: css("--accent"), line: { color: white, width: 1 } };
    found.push({ type: "scatter3d", x: [null], y: [null], z: [null], mode: "markers", marker, hoverinfo: "skip", meta: "read" });
  }
  return found;
}
const byColumn = (rows) => rows[0].map((_, i) => rows.map((row) => row[i])); // a surface's labels are looked up by [x, y]
function fill(figure, one, view, solid = false) {
  const copy = structuredClone(figure);
  const height = (v) => (view.cut === undefined ? onAxis(v) : Math.min(onAxis(v), view.high));
  for (const trace of copy.data) {
    if (trace.meta === "surface") {
      trace.z = one.drawn.map((row) => row.map(height));
      trace.customdata = one.loss.map((row, j) => row.map((v, i) => [v, one.error[j][i], one.accuracy[j][i]]));
      const said = ([v, error, right]) => `loss ${plusMinus(v, error)}${rightAt(right, "<br>")}<br>status ok`;
      trace.text = trace.customdata.map((row) => row.map(said));
      if (solid) Object.assign(trace, { customdata: byColumn(trace.customdata), text: byColumn(trace.text) });
      const levels = { start: view.low, end: view.high, size: view.step };
      if (trace.type === "surface") {
        Object.assign(trace, { cmin: view.low, cmax: view.high });
        Object.assign(trace.contours.z, levels, { end: view.high - view.step / 2 }); // no line lies in a clipped plateau
      } else {
        Object.assign(trace, { zmin: view.low, zmax: view.high });
        Object.assign(trace.contours, levels);
        Object.assign(trace.colorbar, { tickvals: view.ticks, ticktext: view.labels });
        const cut = view.cut === undefined ? "" : `, clipped at ${brief(view.cut)}`;
        trace.colorbar.title.text = `${view.title}, ${state.scale === "own" ? "own range" : "common range"}${cut}`;
      }
    } else if (trace.type === "scatter3d" && trace.meta === "cells") {
      trace.z = trace.x.map(() => view.low);
    } else if (trace.type === "scatter3d" && trace.meta === "centre") {
      trace.z = [one.centre === null ? NaN : height(one.centre), view.high];
    } else if (trace.type === "scatter3d" && trace.meta === "trajectory") {
      trace.z = one.run.plane_loss.map((v) => (v === null ? NaN : height(v)));
    }
  }
  copy.data.splice(1, 0, ...marks(one, height, solid)); // above the surface, below the checkpoint
  if (solid && one.run) copy.data.push(gaps(one.run, height));
  return copy;
}
function gaps(run, height) { // from the loss of the plane to the run's own, at each of its checkpoints
  const z = run.loss.flatMap((own, n) => [own, run.plane_loss[n]].map((v) => (v === null ? NaN : height(v))).concat(null));
  const [x, y] = [run.x, run.y].map((at) => at.flatMap((v) => [v, v, null]));
  return { type: "scatter3d", mode: "lines", x, y, z, line: { color: css("--warn"), width: 5 }, hoverinfo: "skip", meta: "gap" };
}
function tell(column, one) { // the texts of a column, as they came escaped
  const look = column.plane.columns[pickOf(column)], view = one && viewOf(column);
  byId(column.id + "-name").textContent = look.name;
  byId(column.id + "-swatch").style.setProperty("--swatch", look.color);
  byId(column.id + "-stat").innerHTML = one ? one.stat : column.plane.missing[state.split];
  byId(column.id + "-badge").innerHTML = one ? one.badge : "";
  for (const [kind, what] of [["scene", "3-D surface"], ["contour", "Contours"]]) {
    byId(`${column.id}-${kind}`).setAttribute("aria-label", `${what} of the loss around ${look.name}${column.plane.where}`);
  }
  byId(column.id + "-marks").textContent = one ? told(one) : "";
  const cut = view?.cut;
  const above = cut === undefined ? 0 : one.drawn.flat().filter((v) => v > cut).length;
  byId(column.id + "-clip").textContent = cut === undefined ? "" : `Clipped at ${brief(cut)}: ${above} cells above.`;
}
function told(one) { // what the marks in the pictures are
  const ring = ringOf(one), texts = [];
  if (one.lowest) {
    const [j, i] = one.lowest;
    texts.push(`◇ lowest cell: ${plusMinus(one.loss[j][i], one.error[j][i])} at x ${brief(one.x[i])}, y ${brief(one.y[j])}.`);
  }
  if (ring !== null) {
    texts.push(`White ring: ${brief(ring)}, ${reaches(one, ring) ? "" : "which no cell reaches, "}the centre’s loss + ${brief(Number(state.ring))}.`);
  }
  return texts.join(" ");
}
const camera = () => (eye && state.camera === "free" ? { ...PRESETS.free, eye } : PRESETS[state.camera]);
async function drawContour(column) {
  const div = byId(column.id + "-contour"), one = surfaceOf(column);
  tell(column, one);
  div.hidden = !one;
  if (!one) return;
  const figure = fill(one.contour, one, viewOf(column));
  const layout = themed(figure.layout);
  layout.margin = { l: 62, r: 10, t: 8, b: 96 };
  if (await plot(div, figure, layout)) listen(column, div);
}
async function drawScene(column) {
  const div = byId(column.id + "-scene"), one = surfaceOf(column);
  if (!alive.includes(column)) return;
  div.hidden = !one;
  if (!one) return;
  const view = viewOf(column), figure = fill(one.scene, one, view, true);
  const layout = themed(figure.layout);
  layout.margin = { l: 0, r: 0, t: 0, b: 0 };
  const [, ...ticks] = view.ticks, [, ...labels] = view.labels; // the lowest would lie on the labels of x
  Object.assign(layout.scene.zaxis, { range: [view.low, view.high], tickvals: ticks, ticktext: labels });
  layout.scene.zaxis.title.text = state.loss === "log" ? "loss (log scale)" : "loss";
  layout.scene.camera = structuredClone(camera());
  div.tabIndex = 0;
  if (!await plot(div, figure, layout)) return;
  let waiting = null;
  const follow = (event, last) => {
    const turned = event["scene.camera"];
    if (!turned || linking) return;
    waiting = turned;
    requestAnimationFrame(() => {
      if (!waiting) return;
      const now = waiting;
      waiting = null;
      link(column, now, last);
    });
  };
  div.on("plotly_relayouting", (event) => follow(event, false));
  div.on("plotly_relayout", (event) => follow(event, true));
  listen(column, div);
}
async function link(source, turned, last) {
  linking = true;
  eye = { x: turned.eye.x, y: turned.eye.y, z: turned.eye.z };
  state.camera = "free";
  try {
    const others = alive.filter((column) => column !== source && byId(column.id + "-scene").data);
    await Promise.all(others.map((column) => Plotly.relayout(byId(column.id + "-scene"), { "scene.camera": turned })));
  } finally { linking = false; }
  if (last) { showState(); writeFragment(); }
}
async function turn() {
  linking = true;
  try {
    const scenes = alive.map((column) => byId(column.id + "-scene")).filter((div) => div.data);
    await Promise.all(scenes.map((div) => Plotly.relayout(div, { "scene.camera": structuredClone(camera()) })));
  } finally { linking = false; }
}
const webgl = (() => {
  try {
    const canvas = document.createElement("canvas");
    const gl = canvas.getContext("webgl2") || canvas.getContext("webgl");
    gl?.getExtension("WEBGL_lose_context")?.loseContext();
    return Boolean(gl);
  } catch { return false; }
})();
function placeholder(column) {
  const div = byId(column.id + "-scene");
  div.tabIndex = -1; // there is nothing to turn
  div.replaceChildren();
  if (!webgl) {
    div.textContent = "This browser has no WebGL, so there is no 3-D view. The contours below show the same numbers.";
    div.style.height = "auto";
    return;
  }
  const button = document.createElement("button");
  button.textContent = `Show ${nameOf(column)} in 3-D`;
  button.addEventListener("click", async () => { raise(column); await drawScene(column); });
  const note = document.createElement("p");
  note.textContent = `${MOST_SCENES} scenes at a time: the oldest one makes room.`;
  div.append(note, button);
}
function raise(column) {
  while (alive.length >= MOST_SCENES) {
    const oldest = alive.shift();
    Plotly.purge(byId(oldest.id + "-scene"));
    placeholder(oldest);
  }
  alive.push(column);
}
// The difference of two surfaces; on the symlog scale log10(1 + |v| / knee) with its sign, to the same ends.
function colored({ figure, value, error, symlog }) {
  const copy = structuredClone(figure), [trace] = copy.data, reach = trace.zmax, values = unpack(value), errors = unpack(error);
  const bent = state.difference === "symlog", log = (v) => Math.sign(v) * Math.log10(1 + Math.abs(v) / symlog.knee);
  const bend = (v) => (bent ? log(v) / log(reach) * reach : v);
  trace.z = values.map((row) => row.map(bend));
  trace.customdata = values.map((row, j) => row.map((v, i) => [v, errors[j][i]]));
  trace.text = trace.customdata.map((row) => row.map(([v, error]) => `difference ${signed(v, error)}`));
  trace.colorbar.title.text = `difference of the mean losses${bent ? `, ${symlog.told}` : ""}`;
  if (bent) Object.assign(trace.colorbar, { tickvals: symlog.ticks.map(bend), ticktext: symlog.labels });
  return copy;
}

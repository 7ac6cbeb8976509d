// The pictures of surfaces: columns with a scene and a contour, linked cameras, at most four WebGL contexts.
const MOST_SCENES = 4;
const sets = data.planes.flatMap((plane) => plane.members.flatMap((member) => Object.values(member)));
for (const one of sets.flatMap((set) => set.surfaces)) {
  for (const name of ["loss", "error", "accuracy"]) one[name] = unpack(one[name]);
  one.drawn = one.loss;
  if (one.cells.length) one.drawn = one.loss.map((row) => row.slice());
  one.cells.forEach(([j, i]) => { one.drawn[j][i] = NaN; });
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
function fill(figure, one, view) {
  const copy = structuredClone(figure);
  const height = (v) => (view.cut === undefined ? onAxis(v) : Math.min(onAxis(v), view.high));
  for (const trace of copy.data) {
    if (trace.meta === "surface") {
      trace.z = one.drawn.map((row) => row.map(height));
      trace.customdata = one.loss.map((row, j) => row.map((v, i) => [v, one.error[j][i], one.accuracy[j][i]]));
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
      trace.z = one.plane_loss.map((v) => (v === null ? NaN : height(v)));
    }
  }
  return copy;
}
function tell(column, one) { // the texts of a column, as they came escaped
  const look = column.plane.columns[pickOf(column)], view = one && viewOf(column);
  byId(column.id + "-name").textContent = look.name;
  byId(column.id + "-swatch").style.setProperty("--swatch", look.color);
  byId(column.id + "-stat").innerHTML = one ? one.stat : column.plane.missing[state.split];
  byId(column.id + "-badge").innerHTML = one ? one.badge : "";
  for (const [kind, what] of [["scene", "3-D surface"], ["contour", "Contours"]]) {
    byId(`${column.id}-${kind}`).setAttribute("aria-label", `${what} of the loss around ${look.name}`);
  }
  const cut = view?.cut;
  const above = cut === undefined ? 0 : one.drawn.flat().filter((v) => v > cut).length;
  byId(column.id + "-clip").textContent = cut === undefined ? "" : `Clipped at ${brief(cut)}: ${above} cells above.`;
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
  const first = !div.data;
  await Plotly.react(div, figure.data, layout, CONFIG);
  named(div);
  if (first) div.on("plotly_hover", (event) => readOut(column, event.points[0]));
}
async function drawScene(column) {
  const div = byId(column.id + "-scene"), one = surfaceOf(column);
  if (!alive.includes(column)) return;
  div.hidden = !one;
  if (!one) return;
  const view = viewOf(column), figure = fill(one.scene, one, view);
  const layout = themed(figure.layout);
  layout.margin = { l: 0, r: 0, t: 0, b: 0 };
  const [, ...ticks] = view.ticks, [, ...labels] = view.labels; // the lowest would lie on the labels of x
  Object.assign(layout.scene.zaxis, { range: [view.low, view.high], tickvals: ticks, ticktext: labels });
  layout.scene.zaxis.title.text = state.loss === "log" ? "loss (log scale)" : "loss";
  layout.scene.camera = structuredClone(camera());
  const first = !div.data;
  if (first) div.replaceChildren();
  await Plotly.react(div, figure.data, layout, CONFIG);
  named(div);
  if (!first) return;
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
  div.on("plotly_hover", (event) => readOut(column, event.points[0]));
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
function readOut(column, point) {
  const one = surfaceOf(column);
  if (!one || point.data.meta !== "surface") return;
  const [j, i] = Array.isArray(point.pointNumber) ? point.pointNumber : [one.y.indexOf(point.y), one.x.indexOf(point.x)];
  if (!(j >= 0 && i >= 0)) return;
  const beside = columns.filter((other) => other.p === column.p && surfaceOf(other));
  const values = beside.map((other) => {
    const { loss, error } = surfaceOf(other);
    return `${nameOf(other)} ${brief(loss[j][i], 5)} ± ${brief(error[j][i], 2)}`;
  });
  byId(`p${column.p}-readout`).textContent = `At x = ${brief(one.x[i])}, y = ${brief(one.y[j])}: ${values.join(" · ")}`;
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

// The cell that is read, by the mouse or by the arrow keys: in all pictures of its plane at once, and in words.
const readings = data.planes.map(() => null); // by plane, [j, i]
const spots = data.planes.map(() => null); // by plane, where a column's pictures show it (x, y, height), and which does so by itself
const nearestTo = (values, v) => values.reduce((best, at, n) => (Math.abs(at - v) < Math.abs(values[best] - v) ? n : best), 0);
const besides = (p) => columns.filter((column) => column.p === p && surfaceOf(column));
const pictureOf = (column, kind) => byId(`${column.id}-${kind}`);

function statusOf(one, j, i) {
  return one.cells.find(([row, column]) => row === j && column === i)?.[2] ?? "ok";
}
function valuesAt(p) { // what was measured there, by checkpoint
  const [j, i] = readings[p];
  return besides(p).map((column) => {
    const one = surfaceOf(column);
    return {
      checkpoint: nameOf(column), loss: one.loss[j][i], standard_error: one.error[j][i], accuracy: one.accuracy[j][i],
      num_examples: one.num_examples, status: statusOf(one, j, i),
    };
  });
}
function wordsOf({ checkpoint, loss, standard_error, accuracy, status }) {
  if (status !== "ok") return `${checkpoint} ${status}`;
  const right = rightAt(accuracy, " (");
  return `${checkpoint} ${plusMinus(loss, standard_error)}${right && `${right})`}`;
}
function tellReading(p) {
  if (!readings[p]) return;
  const [j, i] = readings[p], { x, y } = data.planes[p], values = valuesAt(p);
  byId(`p${p}-copy`).hidden = !values.length;
  if (!values.length) { // nothing of this plane on this data
    byId(`p${p}-readout`).textContent = "";
    return;
  }
  const counts = [...new Set(values.map((one) => one.num_examples))].filter(Boolean).map((n) => n.toLocaleString("en"));
  const over = counts.length ? `; ${counts.join(" or ")} examples` : "";
  byId(`p${p}-readout`).textContent = `At x = ${brief(x[i])}, y = ${brief(y[j])}: ${values.map(wordsOf).join(" · ")}${over}`;
}
function read(p, j, i, source) { // source: the picture that shows it by itself
  readings[p] = [j, i];
  tellReading(p);
  light(p, (column) => [column.plane.x[i], column.plane.y[j], pictureOf(column, "scene").data?.[0].z[j][i]], source);
}
function light(p, at, source) {
  spots[p] = { at, source };
  for (const column of besides(p)) {
    const contour = pictureOf(column, "contour"), place = at?.(column);
    if (contour === source || !contour.data) continue;
    if (place) Plotly.Fx.hover(contour, { xval: place[0], yval: place[1] }, "xy", true);
    else Plotly.Fx.unhover(contour, {}, "xy");
  }
  markScenes(p);
}
const unread = (p, source) => light(p, null, source); // the words stay
const marking = new Set(); // planes
async function markScenes(p) { // the latest spot only: a scene takes a while
  if (marking.has(p)) return;
  marking.add(p);
  let marked = null;
  try {
    while (marked !== spots[p]) {
      marked = spots[p];
      for (const column of besides(p)) await markScene(column, marked);
    }
  } finally { marking.delete(p); }
}
async function markScene(column, { at, source }) {
  const scene = pictureOf(column, "scene"), n = scene.data?.findIndex((trace) => trace.meta === "read") ?? -1;
  if (scene === source || n < 0) return;
  const [x, y, z] = at?.(column) ?? [null, null, null];
  await Plotly.restyle(scene, { x: [[x]], y: [[y]], z: [[z]] }, [n]);
}
function listen(column, div) {
  div.on("plotly_hover", ({ points: [point] }) => {
    const one = surfaceOf(column);
    if (one && point.data.meta === "trajectory") return readEpoch(one.run.epoch[point.pointNumber], div);
    if (!one || !["surface", "cells", "lowest"].includes(point.data.meta)) return;
    read(column.p, nearestTo(one.y, point.y), nearestTo(one.x, point.x), div);
  });
  div.on("plotly_unhover", () => unread(column.p, div));
}

// ---- an epoch is read in all figures along training, and where the run was in the pictures of its plane ----
const alongTraining = () => [...document.querySelectorAll('[id$="-run"], #curvature-trace, #congruence')].filter((div) => div.data);
const runOf = (column) => surfaceOf(column)?.run;
function readEpoch(epoch, source) { // null: none any more
  const silently = true; // or a figure would answer itself
  for (const div of alongTraining()) {
    const panels = Object.keys(div._fullLayout._plots);
    if (epoch !== null) Plotly.Fx.hover(div, { xval: epoch }, panels, silently);
    else if (div !== source) Plotly.Fx.unhover(div, {}, panels);
  }
  data.planes.forEach((_, p) => {
    if (!besides(p).some(runOf)) return;
    light(p, epoch === null ? null : (column) => {
      const run = runOf(column), n = run?.epoch.indexOf(epoch) ?? -1;
      return n < 0 ? null : [run.x[n], run.y[n], run.plane_loss[n] === null ? NaN : onAxis(run.plane_loss[n])];
    }, source);
  });
}
function cursor(div) {
  if (!div?.on || div.dataset.cursor) return;
  div.dataset.cursor = "on";
  div.on("plotly_hover", (event) => readEpoch(event.points[0].x, div));
  div.on("plotly_unhover", () => readEpoch(null, div));
}
const epochOf = (p) => data.planes[p].epochs[Number(state[`epoch${p}`])];
function tellEpoch(p) { // of the slider: what each run that is shown was then
  const shown = besides(p).filter(runOf), epoch = epochOf(p);
  const told = shown.map((column) => {
    const run = runOf(column), n = run.epoch.indexOf(epoch), name = shown.length > 1 ? `${nameOf(column)} ` : "";
    if (n < 0) return `${name}not kept`;
    const own = plusMinus(run.loss[n], run.standard_error[n]);
    return `${name}its own loss ${own}, the plane’s ${short(run.plane_loss[n])}, ${short(run.distance[n])} off the plane`;
  });
  return told.length ? `${epoch}: ${told.join(" · ")}` : "";
}

// ---- keys: over a contour they move the cell, over a scene they turn it ----
const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0] };
function moveCell(column, event) {
  const { x, y } = column.plane, one = surfaceOf(column), centre = [nearestTo(y, 0), nearestTo(x, 0)];
  const pace = event.shiftKey ? 5 : 1, [up, right] = STEPS[event.key] ?? [0, 0];
  const from = readings[column.p];
  let [j, i] = event.key === "Home" || !from ? centre : from;
  if (event.key === "End" && one.lowest) [j, i] = one.lowest;
  if (from) [j, i] = [j + pace * up, i + pace * right];
  read(column.p, Math.max(0, Math.min(y.length - 1, j)), Math.max(0, Math.min(x.length - 1, i)));
}
function turnBy(key) {
  const { x, y, z } = camera().eye, far = Math.hypot(x, y, z), [up, right] = STEPS[key] ?? [0, 0];
  const around = Math.atan2(y, x) + right * Math.PI / 18;
  const above = Math.max(-1.5, Math.min(1.5, Math.asin(z / far) + up * Math.PI / 18));
  const away = far * ({ "+": 1 / 1.1, "-": 1.1 }[key] ?? 1);
  const flat = away * Math.cos(above);
  eye = { x: flat * Math.cos(around), y: flat * Math.sin(around), z: away * Math.sin(above) };
  state.camera = "free";
  showState();
  writeFragment();
  turn();
}
document.addEventListener("focusout", ({ target }) => {
  const column = columns.find((one) => target.id === `${one.id}-contour`);
  if (column) unread(column.p);
});
document.addEventListener("keydown", (event) => {
  const column = columns.find((one) => event.target.id === `${one.id}-contour` || event.target.id === `${one.id}-scene`);
  if (!column || event.ctrlKey || event.altKey || event.metaKey) return;
  const contour = event.target.id.endsWith("contour"), moves = event.key in STEPS;
  if (contour && event.key === "Escape") return unread(column.p);
  if (!moves && !(contour ? ["Home", "End"] : ["+", "-"]).includes(event.key)) return;
  event.preventDefault();
  contour ? moveCell(column, event) : turnBy(event.key);
});

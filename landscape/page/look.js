// How figures look: plotly's settings, the colours of the page, arrays as they travel.
const CONFIG = {
  displaylogo: false, showSendToCloud: false, plotlyServerURL: "", responsive: true, scrollZoom: false, showTips: false,
  modeBarButtonsToRemove: [
    "sendChartToCloud", "lasso2d", "select2d", "autoScale2d", "resetCameraDefault3d", "resetCameraLastSave3d",
  ],
};
const narrow = matchMedia("(max-width: 640px)");
const dark = matchMedia("(prefers-color-scheme: dark)");

function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed.data), (c) => c.charCodeAt(0));
  const flat = packed.type === "f4" ? new Float32Array(bytes.buffer) : new Float64Array(bytes.buffer);
  const rows = [];
  for (let j = 0; j < packed.rows; j++) rows.push(Array.from(flat.subarray(j * packed.columns, (j + 1) * packed.columns)));
  return rows;
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
function themed(layout) {
  const [ink, soft, line, ground] = ["--ink", "--soft", "--line", "--ground"].map(css);
  delete layout.title; // the page has its own captions
  delete layout.height;
  Object.assign(layout, { autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" });
  layout.font = { ...layout.font, color: ink };
  layout.hoverlabel = { bgcolor: ground, bordercolor: soft, font: { color: ink } };
  layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: css("--accent") };
  for (const note of layout.annotations ?? []) note.bgcolor = ground; // over lines
  const axes = Object.entries(layout).filter(([name]) => /^[xy]axis\d*$/.test(name)).map(([, axis]) => axis);
  const solid = layout.scene ? [layout.scene.xaxis, layout.scene.yaxis, layout.scene.zaxis] : [];
  for (const axis of [...axes, ...solid]) {
    Object.assign(axis, { gridcolor: line, linecolor: line, color: ink, tickfont: { ...axis.tickfont, color: soft } });
    if (typeof axis.title === "object") axis.title.font = { size: 12, color: soft };
  }
  return layout;
}
function onPaper(div) { // at once: printing does not wait
  const { data, layout } = div, fixed = themed(structuredClone(layout));
  delete fixed.autosize;
  Plotly.react(div, data, { ...fixed, width: div.clientWidth, height: div.clientHeight }, { ...CONFIG, responsive: false });
}
function stacked(layout) {
  const pairs = Object.keys(layout).filter((name) => /^xaxis\d*$/.test(name)).sort();
  if (!narrow.matches || pairs.length < 2) return layout;
  const gap = 0.14, height = (1 - gap * (pairs.length - 1)) / pairs.length;
  pairs.forEach((name, n) => {
    const top = 1 - n * (height + gap);
    layout[name].domain = [0, 1];
    layout[name.replace("x", "y")].domain = [Math.max(top - height, 0), top];
  });
  return layout;
}
function named(div) { // names and keys for what plotly draws: its tools are one stop of the tab key, its legend's names are switches
  const bar = div.querySelector(".modebar"), tools = [...div.querySelectorAll(".modebar-btn")];
  bar?.setAttribute("role", "toolbar");
  bar?.setAttribute("aria-label", `Tools of: ${div.getAttribute("aria-label")}`);
  tools.forEach((button, n) => {
    if (button.dataset.title) button.setAttribute("aria-label", button.dataset.title);
    button.tabIndex = n ? -1 : 0;
  });
  for (const item of div.querySelectorAll(".legend .traces")) {
    const name = item.querySelector(".legendtext").dataset.unformatted, shown = item.style.opacity === "1";
    const keys = { tabindex: 0, role: "switch", "aria-label": name, "aria-checked": shown };
    for (const [key, value] of Object.entries(keys)) item.querySelector(".legendtoggle").setAttribute(key, value);
  }
}
document.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], tool = event.target.closest(".modebar-btn");
  if (tool && step) {
    const tools = [...tool.closest(".modebar").querySelectorAll(".modebar-btn")];
    tools[(tools.indexOf(tool) + step + tools.length) % tools.length].focus();
  }
  if (!event.target.matches(".legendtoggle") || !["Enter", " "].includes(event.key)) return;
  event.preventDefault();
  const div = event.target.closest(".js-plotly-plot"), name = event.target.getAttribute("aria-label");
  div.once("plotly_afterplot", () => [...div.querySelectorAll(".legendtoggle")].find((one) => one.getAttribute("aria-label") === name)?.focus());
  for (const kind of ["mousedown", "mouseup"]) event.target.dispatchEvent(new MouseEvent(kind, { bubbles: true }));
});
function cutAxes(layout) { // curves end where the surfaces are clipped
  const cut = clipLoss();
  for (const [name, axis] of Object.entries(layout)) {
    if (cut === null || !/^yaxis\d*$/.test(name) || !axis.range) continue;
    const top = axis.type === "log" ? Math.log10(cut) : cut;
    if (top > axis.range[0]) axis.range = [axis.range[0], Math.min(axis.range[1], top)];
  }
}
function lost(div, error) { // one figure that plotly cannot draw takes no other with it
  console.warn(error);
  Plotly.purge(div);
  div.classList.remove("js-plotly-plot");
  const note = document.createElement("p");
  note.className = "missing";
  note.textContent = "This figure could not be drawn. Its numbers are in the files: Save as JSON, below.";
  div.replaceChildren(note);
}
async function plot(div, figure, layout) { // true where it is the first one there
  const first = !div.data;
  if (first) div.replaceChildren();
  try {
    await Plotly.react(div, figure.data, layout, CONFIG);
  } catch (error) {
    lost(div, error);
    return false;
  }
  if (first) div.on("plotly_afterplot", () => named(div)); // plotly redraws by itself too
  named(div);
  return first;
}
const switched = new Map(); // by figure, then by name: what a reader has switched on or off at its legend
const nameIn = (trace) => trace.legendgroup ?? trace.name;
function keepSwitched(div, traces) {
  for (const trace of traces) trace.visible = switched.get(div)?.get(nameIn(trace)) ?? trace.visible;
}
function listenToLegend(div) {
  div.on("plotly_restyle", () => {
    const found = div.data.filter((trace) => nameIn(trace) !== undefined).map((trace) => [nameIn(trace), trace.visible ?? true]);
    switched.set(div, new Map([...(switched.get(div) ?? []), ...found]));
  });
}
async function makeRoom(div) { // for the names in a legend of many rows
  const before = div.style.height, legend = div.querySelector(".legend .bg")?.getBBox().height ?? 0;
  div.style.height = "";
  if (legend > 60) div.style.height = `${Math.round(div.clientHeight + legend - 40)}px`;
  if (div.style.height !== before) await Plotly.Plots.resize(div);
}
async function chart(id, figure, { clipped = false, margin = { l: 62, r: 12, t: 34, b: 52 } } = {}) {
  const div = byId(id);
  if (!div || !figure) return;
  const copy = structuredClone(figure);
  const layout = stacked(themed(copy.layout));
  layout.margin = margin;
  if (clipped) cutAxes(layout);
  keepSwitched(div, copy.data);
  if (await plot(div, copy, layout)) listenToLegend(div);
  if (div.data) await makeRoom(div);
}

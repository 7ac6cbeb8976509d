// How figures look: plotly's settings, the colours of the page, arrays as they travel.
const CONFIG = {
  displaylogo: false, showSendToCloud: false, plotlyServerURL: "", responsive: true, scrollZoom: false,
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
  const axes = Object.entries(layout).filter(([name]) => /^[xy]axis\d*$/.test(name)).map(([, axis]) => axis);
  const solid = layout.scene ? [layout.scene.xaxis, layout.scene.yaxis, layout.scene.zaxis] : [];
  for (const axis of [...axes, ...solid]) {
    Object.assign(axis, { gridcolor: line, linecolor: line, color: ink, tickfont: { ...axis.tickfont, color: soft } });
    if (typeof axis.title === "object") axis.title.font = { size: 12, color: soft };
  }
  return layout;
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
function named(div) {
  for (const button of div.querySelectorAll(".modebar-btn")) {
    const name = button.dataset.title || button.getAttribute("data-title");
    if (name) button.setAttribute("aria-label", name);
  }
}
function cutAxes(layout) { // curves end where the surfaces are clipped
  const cut = clipLoss();
  for (const [name, axis] of Object.entries(layout)) {
    if (cut === null || !/^yaxis\d*$/.test(name) || !axis.range) continue;
    const top = axis.type === "log" ? Math.log10(cut) : cut;
    if (top > axis.range[0]) axis.range = [axis.range[0], Math.min(axis.range[1], top)];
  }
}
async function chart(id, figure, { clipped = false, margin = { l: 62, r: 12, t: 34, b: 52 } } = {}) {
  const div = byId(id);
  if (!div || !figure) return;
  const copy = structuredClone(figure);
  const layout = stacked(themed(copy.layout));
  layout.margin = margin;
  if (clipped) cutAxes(layout);
  await Plotly.react(div, copy.data, layout, CONFIG);
  named(div);
}

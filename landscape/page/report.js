"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const CONFIG = {
    displaylogo: false, showSendToCloud: false, plotlyServerURL: "", responsive: true, scrollZoom: false,
    modeBarButtonsToRemove: ["sendChartToCloud", "lasso2d", "select2d", "autoScale2d"],
  };
  const PRESETS = {
    free: data.camera,
    top: { eye: { x: 0, y: -0.001, z: 2.1 }, up: { x: 0, y: 1, z: 0 }, center: { x: 0, y: 0, z: 0 } },
    side: { eye: { x: 0, y: -2.1, z: 0.12 }, up: { x: 0, y: 0, z: 1 }, center: { x: 0, y: 0, z: -0.05 } },
  };
  const MOST_SCENES = 4;
  const byId = (id) => document.getElementById(id);
  const narrow = matchMedia("(max-width: 640px)");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const state = { split: data.splits[0]?.id, camera: "free", scale: "common", loss: data.loss };
  let eye = null; // a camera turned by hand
  let alive = []; // columns that hold a WebGL context, oldest first
  let linking = false;

  // ---- state in the fragment, so that a view can be sent ----
  const choices = { split: data.splits.map((s) => s.id), camera: Object.keys(PRESETS), scale: ["common", "own"], loss: ["linear", "log"] };
  function readFragment() {
    const query = new URLSearchParams(location.hash.slice(1));
    for (const [name, allowed] of Object.entries(choices)) {
      if (allowed.includes(query.get(name))) state[name] = query.get(name);
    }
    const numbers = (query.get("eye") || "").split(",").map(Number);
    if (numbers.length === 3 && numbers.every(Number.isFinite)) eye = { x: numbers[0], y: numbers[1], z: numbers[2] };
    if (data.linear_only) state.loss = "linear";
  }
  function writeFragment() {
    const query = new URLSearchParams(state);
    if (!state.split) query.delete("split");
    if (eye) query.set("eye", [eye.x, eye.y, eye.z].map((v) => v.toFixed(2)).join(","));
    try { history.replaceState(null, "", "#" + query); } catch { /* a page without history still works */ }
  }

  // ---- arrays ----
  function unpack(packed) {
    const bytes = Uint8Array.from(atob(packed.data), (c) => c.charCodeAt(0));
    const flat = packed.type === "f4" ? new Float32Array(bytes.buffer) : new Float64Array(bytes.buffer);
    const rows = [];
    for (let j = 0; j < packed.rows; j++) rows.push(Array.from(flat.subarray(j * packed.columns, (j + 1) * packed.columns)));
    return rows;
  }
  for (const plane of data.planes) for (const set of Object.values(plane.sets)) for (const one of set.surfaces) {
    for (const name of ["loss", "error", "accuracy"]) one[name] = unpack(one[name]);
    one.cells.forEach(([j, i]) => { one.drawn = one.drawn || one.loss.map((row) => row.slice()); one.drawn[j][i] = NaN; });
    one.drawn = one.drawn || one.loss;
  }

  // ---- looks ----
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
  async function chart(id, figure) {
    const div = byId(id);
    if (!div || !figure) return;
    const copy = structuredClone(figure);
    const layout = stacked(themed(copy.layout));
    layout.margin = { l: 62, r: 12, t: 34, b: 52 };
    await Plotly.react(div, copy.data, layout, CONFIG);
    named(div);
  }

  // ---- surfaces ----
  const columns = data.planes.flatMap((plane, p) => plane.columns.map((_, c) => ({ id: `p${p}c${c}`, plane, c })));
  const setOf = (column) => column.plane.sets[state.split];
  const surfaceOf = (column) => setOf(column)?.surfaces.find((one) => one.column === column.c);
  const viewOf = (column) => (state.scale === "own" ? surfaceOf(column).views : setOf(column).views)[state.loss];
  const onAxis = (rows) => (state.loss === "log" ? rows.map((row) => row.map((v) => (v > 0 ? Math.log10(v) : NaN))) : rows);
  function fill(figure, one, view) {
    const copy = structuredClone(figure);
    for (const trace of copy.data) {
      if (trace.meta === "surface") {
        trace.z = onAxis(one.drawn);
        trace.customdata = one.loss.map((row, j) => row.map((v, i) => [v, one.error[j][i], one.accuracy[j][i]]));
        const levels = { start: view.low, end: view.high, size: view.step };
        if (trace.type === "surface") {
          Object.assign(trace, { cmin: view.low, cmax: view.high });
          Object.assign(trace.contours.z, levels);
        } else {
          Object.assign(trace, { zmin: view.low, zmax: view.high });
          Object.assign(trace.contours, levels);
          Object.assign(trace.colorbar, { tickvals: view.ticks, ticktext: view.labels });
          trace.colorbar.title.text = `${view.title}, ${state.scale === "own" ? "own range" : "common range"}`;
        }
      } else if (trace.type === "scatter3d" && trace.meta === "cells") {
        trace.z = trace.x.map(() => view.low);
      } else if (trace.type === "scatter3d" && trace.meta === "centre") {
        trace.z = [...onAxis([[one.centre]])[0], view.high];
      }
    }
    return copy;
  }
  const camera = () => (eye && state.camera === "free" ? { ...PRESETS.free, eye } : PRESETS[state.camera]);
  async function drawContour(column) {
    const div = byId(column.id + "-contour"), one = surfaceOf(column);
    div.hidden = !one;
    if (!one) return;
    const figure = fill(one.contour, one, viewOf(column));
    const layout = themed(figure.layout);
    layout.margin = { l: 50, r: 10, t: 8, b: 96 };
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
  function readOut(column, point) {
    const set = setOf(column), one = surfaceOf(column);
    if (!set || !one || point.data.meta !== "surface") return;
    const [j, i] = Array.isArray(point.pointNumber) ? point.pointNumber : [one.y.indexOf(point.y), one.x.indexOf(point.x)];
    if (!(j >= 0 && i >= 0)) return;
    const show = (value, digits) => (Number.isFinite(value) ? Number(value.toPrecision(digits)).toString() : String(value));
    const values = set.surfaces.map((other) =>
      `${column.plane.columns[other.column]} ${show(other.loss[j][i], 5)} ± ${show(other.error[j][i], 2)}`);
    byId(`p${data.planes.indexOf(column.plane)}-readout`).textContent =
      `At x = ${show(one.x[i], 3)}, y = ${show(one.y[j], 3)}: ${values.join(" · ")}`;
  }

  // ---- WebGL: at most four scenes ----
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
    button.textContent = `Show ${column.plane.columns[column.c]} in 3-D`;
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

  // ---- everything ----
  const idle = () => new Promise((done) => (window.requestIdleCallback ? requestIdleCallback(done, { timeout: 150 }) : setTimeout(done, 20)));
  function showState() {
    for (const [name, value] of Object.entries(state)) {
      for (const input of document.querySelectorAll(`input[name="${name}"]`)) input.checked = input.value === value;
    }
    for (const element of document.querySelectorAll("[data-split]")) element.hidden = element.dataset.split !== state.split;
  }
  let drawing = 0;
  async function draw(all = true) { // the spectrum and the congruence have no switches

    const mine = ++drawing;
    const stale = () => mine !== drawing;
    document.body.dataset.drawn = "";
    showState();
    for (const column of columns) {
      await drawContour(column);
      await idle();
      if (stale()) return;
    }
    for (let p = 0; p < data.planes.length; p++) {
      const set = data.planes[p].sets[state.split];
      byId(`p${p}-slices`).hidden = !set;
      if (set) await chart(`p${p}-slices`, set.slices[state.loss]);
    }
    if (all) {
      await chart("eigenvalues", data.eigenvalues);
      await chart("congruence", data.congruence);
    }
    if (stale()) return;
    document.body.dataset.drawn = "contours";
    for (const column of [...alive]) {
      await idle();
      if (stale()) return;
      await drawScene(column);
    }
    document.body.dataset.drawn = "all";
  }
  async function turn() {
    linking = true;
    try {
      const scenes = alive.map((column) => byId(column.id + "-scene")).filter((div) => div.data);
      await Promise.all(scenes.map((div) => Plotly.relayout(div, { "scene.camera": structuredClone(camera()) })));
    } finally { linking = false; }
  }

  document.addEventListener("change", (event) => {
    const { name, value } = event.target;
    if (!(name in state)) return;
    state[name] = value;
    if (name === "camera") { eye = null; turn(); } else draw(false);
    writeFragment();
  });
  byId("copy")?.addEventListener("click", async () => {
    let copied = true;
    try { await navigator.clipboard.writeText(data.csv); } catch {
      const area = document.createElement("textarea");
      area.value = data.csv;
      document.body.append(area);
      area.select();
      copied = document.execCommand("copy");
      area.remove();
    }
    byId("copied").textContent = copied ? "Copied." : "The browser refused the clipboard.";
  });
  for (const query of [dark, narrow]) query.addEventListener("change", () => draw());
  addEventListener("hashchange", () => { readFragment(); draw(); });
  addEventListener("beforeprint", () => { for (const div of document.querySelectorAll(".js-plotly-plot")) Plotly.relayout(div, { "font.color": "#000000" }); });
  addEventListener("afterprint", () => draw());

  readFragment();
  for (const column of columns) {
    if (webgl && alive.length < MOST_SCENES) alive.push(column);
    else placeholder(column);
  }
  draw();
})();

// Tables that sort, and everything that leaves the page: copies and files.
function sortBy(button) {
  const head = button.closest("th"), body = head.closest("table").tBodies[0];
  const column = head.cellIndex, down = head.getAttribute("aria-sort") === "ascending";
  const number = (row) => parseFloat(row.cells[column].textContent.replace("−", "-").replace(/,(?=\d{3})/g, ""));
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [number(a), number(b)];
    if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1; // what is not there comes last, always
    const order = Number.isNaN(x) ? a.cells[column].textContent.localeCompare(b.cells[column].textContent) : x - y;
    return down ? -order : order;
  });
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...rows);
}
async function copy(text) {
  let copied = true;
  try { await navigator.clipboard.writeText(text); } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    copied = document.execCommand("copy");
    area.remove();
  }
  return copied ? "Copied." : "The browser refused the clipboard.";
}
function offer(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
function measurements() {
  const found = [];
  data.planes.forEach((plane, p) => plane.members.forEach((member, k) => {
    for (const [split, set] of Object.entries(member)) for (const one of set.surfaces) {
      const { name, hash } = data.splits[split], of = { data: name, data_hash: hash, num_examples: one.num_examples };
      found.push({ checkpoint: plane.columns[one.column].name, family: p + 1, plane: k + 1, ...of, one });
    }
  }));
  return found;
}
function statuses(one) { // of every cell
  const rows = one.loss.map((row) => row.map(() => "ok"));
  one.cells.forEach(([j, i, status]) => { rows[j][i] = status; });
  return rows;
}
function asWritten(v) { // no digit that float32, in which it travels, does not carry
  const digits = [6, 7, 8, 9].find((n) => Math.fround(Number(v.toPrecision(n))) === v);
  return digits ? Number(v.toPrecision(digits)) : v;
}
function asJson() {
  const finite = (rows) => rows.map((row) => row.map((v) => (Number.isFinite(v) ? asWritten(v) : String(v))));
  const surfaces = measurements().map(({ one, ...where }) => ({
    ...where, x: one.x, y: one.y, rows: "of y",
    loss: finite(one.loss), standard_error: finite(one.error), accuracy: finite(one.accuracy),
    status: statuses(one),
  }));
  return JSON.stringify({ commands: data.commands, surfaces, table_csv: data.csv });
}
function asCsv() {
  const quoted = (text) => `"${text.replace(/"/g, '""')}"`;
  const lines = ["checkpoint,family,plane,data,data_hash,num_examples,x,y,loss,standard_error,accuracy,status"];
  for (const { checkpoint, family, plane, data: name, data_hash, num_examples, one } of measurements()) {
    const status = statuses(one);
    one.y.forEach((y, j) => one.x.forEach((x, i) => lines.push([
      quoted(checkpoint), family, plane, quoted(name), data_hash ?? "", num_examples, x, y,
      ...[one.loss, one.error, one.accuracy].map((rows) => asWritten(rows[j][i])), status[j][i],
    ].join(","))));
  }
  return lines.join("\n") + "\n";
}
async function savePicture(format) {
  const div = byId(byId("figure").value);
  const size = { width: Math.round(div.clientWidth), height: Math.round(div.clientHeight) };
  const figure = { data: div.data, layout: { ...div.layout, paper_bgcolor: css("--ground") } };
  await Plotly.downloadImage(figure, { format, ...size, scale: format === "png" ? 3 : 1, filename: `landscape-${div.id}` });
}
function listFigures() { // what is drawn and shown can be saved
  if (!byId("figure")) return;
  const shown = [...document.querySelectorAll(".js-plotly-plot")].filter((div) => div.offsetParent);
  const chosen = byId("figure").value;
  byId("figure").replaceChildren(...shown.map((div) => new Option(div.getAttribute("aria-label"), div.id)));
  if (shown.some((div) => div.id === chosen)) byId("figure").value = chosen;
}
const ACTIONS = {
  "copy-csv": () => copy(data.csv),
  "copy-latex": () => copy(data.latex),
  "copy-commands": () => copy(data.commands.join("\n")),
  "copy-citation": () => copy(byId("citation").textContent),
  "save-json": () => offer("landscape.json", asJson(), "application/json"),
  "save-csv": () => offer("landscape-surfaces.csv", asCsv(), "text/csv"),
  "save-png": () => savePicture("png"),
  "save-svg": () => savePicture("svg"),
};
data.planes.forEach((plane, p) => { // the cell that is read
  ACTIONS[`p${p}-copy`] = () => {
    const [j, i] = readings[p], on = data.splits[state.split].name;
    const said = (key, v) => (typeof v !== "number" ? v : Number.isFinite(v) ? asWritten(v) : String(v));
    return copy(JSON.stringify({ x: plane.x[i], y: plane.y[j], data: on, values: valuesAt(p) }, said));
  };
});
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (button?.matches("th button")) sortBy(button);
  if (!button || !(button.id in ACTIONS)) return;
  const said = await ACTIONS[button.id]();
  const status = button.closest(".actions").querySelector("[role=status]");
  status.textContent = said || "Saved.";
});

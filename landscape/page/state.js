// What is chosen, and the fragment of the address that keeps it, so that a view can be sent.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const PRESETS = {
  free: data.camera,
  top: { eye: { x: 0, y: -0.001, z: 2.1 }, up: { x: 0, y: 1, z: 0 }, center: { x: 0, y: 0, z: 0 } },
  side: { eye: { x: 0, y: -2.1, z: 0.12 }, up: { x: 0, y: 0, z: 1 }, center: { x: 0, y: 0, z: -0.05 } },
};
const state = { loss: data.loss };
const choices = {};
for (const radio of document.querySelectorAll('input[type="radio"]')) {
  (choices[radio.name] ??= []).push(radio.value);
  if (radio.defaultChecked) state[radio.name] = radio.value;
}
for (const number of document.querySelectorAll('input[type="number"]')) { // of the ring
  state[number.name] = number.defaultValue;
  const trial = number.cloneNode(); // what a reader can type: no Infinity, and nothing that is not a number
  choices[number.name] = { includes: (text) => { trial.value = text; return text === "" || trial.valueAsNumber >= 0; } }; // "" is no ring
}
for (const select of document.querySelectorAll(".picker select")) { // of planes, and of checkpoints
  state[select.name] = select.value;
  choices[select.name] = [...select.options].map((option) => option.value);
}
for (const slider of document.querySelectorAll('input[type="range"]')) { // of the clip, and of the slices
  state[slider.name] = slider.value;
  choices[slider.name] = Array.from({ length: slider.max - slider.min + 1 }, (_, n) => String(Number(slider.min) + n));
}
const initial = { ...state };
let eye = null; // a camera turned by hand

function readFragment() {
  const query = new URLSearchParams(location.hash.slice(1));
  Object.assign(state, initial); // what the fragment does not name is as on a fresh page
  eye = null;
  for (const [name, allowed] of Object.entries(choices)) {
    if (allowed.includes(query.get(name))) state[name] = query.get(name);
  }
  const numbers = (query.get("eye") || "").split(",").map(Number);
  const away = Math.hypot(...numbers); // a scene needs a place to be seen from
  if (numbers.length === 3 && away > 0.01 && away < 100) eye = { x: numbers[0], y: numbers[1], z: numbers[2] };
  if (data.linear_only) state.loss = "linear";
}
function writeFragment() {
  const query = new URLSearchParams(Object.entries(state).filter(([name, value]) => value !== initial[name]));
  if (eye) query.set("eye", [eye.x, eye.y, eye.z].map((v) => v.toFixed(2)).join(","));
  try { history.replaceState(null, "", "#" + query); } catch { /* a page without history still works */ }
}
function tellSliders() { // what the places of the sliders stand for
  const cut = clipLoss();
  const words = { clip: cut === null ? "nothing is clipped" : `${brief(cut)}: heights, colours and axes end there; hover has the loss` };
  data.planes.forEach((plane, p) => Object.assign(words, {
    [`epoch${p}`]: tellEpoch(p), [`row${p}`]: brief(plane.y[Number(state[`row${p}`])]), [`col${p}`]: brief(plane.x[Number(state[`col${p}`])]),
  }));
  for (const slider of document.querySelectorAll('input[type="range"]')) {
    byId(`${slider.name}-told`).textContent = words[slider.name];
    slider.setAttribute("aria-valuetext", words[slider.name]);
    slider.disabled = /^(row|col)/.test(slider.name) && state[`cut${slider.name.slice(3)}`] === "diagonals";
  }
}
function showState() {
  tellSliders();
  for (const [name, value] of Object.entries(state)) {
    for (const input of document.querySelectorAll(`input[type="radio"][name="${name}"]`)) input.checked = input.value === value;
    for (const input of document.querySelectorAll(`select[name="${name}"], input[name="${name}"]:not([type="radio"])`)) input.value = value;
  }
  for (const element of document.querySelectorAll("[data-split], [data-member]")) {
    const { split, family, member } = element.dataset;
    element.hidden = (split !== undefined && split !== state.split) ||
      (member !== undefined && member !== (state[`plane${family}`] ?? "0"));
  }
}

// The loss above which heights and colours are cut; null where nothing is. Losses span decades: so does the slider.
function clipLoss() {
  const part = Number(state.clip ?? 100) / 100;
  if (!data.clip || part >= 1) return null;
  const { low, high } = data.clip;
  return low > 0 ? low * (high / low) ** part : low + (high - low) * part;
}

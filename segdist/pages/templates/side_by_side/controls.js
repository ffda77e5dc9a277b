// What people do: every change goes through `change`, which shows it and keeps its link.
function change(values, { step = false, top = false } = {}) {
  const before = state, held = document.activeElement?.dataset.keep;
  state = { ...state, ...values };
  if (top) state.at = null;
  const moved = (...names) => names.some((name) => before[name] !== state[name]);
  if (moved("sort", "a", "b", "size")) {
    const isSorted = moved("sort") || (["drives", "a", "b"].includes(state.sort) && moved("a", "b"));
    layOut({ keepPlace: !isSorted && !top });
  }
  if (moved("a", "b")) showPairs();
  if (moved("image", "a", "b", "size") || (state.image !== null && moved("sort"))) showOne();
  if (moved("image") && state.image === null) { layOut({ keepPlace: false }); goTo(state.at); }
  if (moved("zoom", "x", "y", "layers", "hidden")) redraw();
  if (held) document.querySelector(`[data-keep="${held}"]`)?.focus({ preventScroll: true }); // its button was made anew
  showControls();
  keepLink({ step });
  if (top && grid.offsetTop > innerHeight / 2) element("tools").scrollIntoView(); // below the bars, where the window is narrow
}

function showControls() {
  element("sort").value = state.sort;
  element("size").value = state.size;
  document.querySelectorAll("[data-layer]").forEach((button) => button.setAttribute("aria-pressed", state.layers.has(button.dataset.layer)));
  document.querySelectorAll("[data-class]").forEach((button) => button.setAttribute("aria-pressed", !state.hidden.has(Number(button.dataset.class))));
  element("zoomed").textContent = `${Math.round(100 * state.zoom)} %`;
  document.body.classList.toggle("zoomed", state.zoom > 1);
  element("legend").classList.toggle("errors", state.layers.has("error"));
}

const toggled = (set, value) => { const copy = new Set(set); if (!copy.delete(value)) copy.add(value); return copy; };
const toggleLayer = (name) => change({ layers: toggled(state.layers, name) });

// The point under the pointer stays where it is; the image never leaves its cell.
function zoomTo(zoom, x = state.x, y = state.y) {
  zoom = Math.min(32, Math.max(1, zoom));
  const within = (value) => Math.min(1 - 0.5 / zoom, Math.max(0.5 / zoom, value));
  change(zoom === 1 ? { zoom, x: 0.5, y: 0.5 } : { zoom, x: within(x), y: within(y) });
}
function zoomAt(canvas, event, factor) {
  const box = canvas.getBoundingClientRect(), { scale, left, top } = placed(canvas, page.images[canvas.place].size), r = canvas.width / box.width;
  const [height, width] = page.images[canvas.place].size;
  const x = ((event.clientX - box.left) * r - left) / (width * scale), y = ((event.clientY - box.top) * r - top) / (height * scale);
  const zoom = Math.min(32, Math.max(1, state.zoom * factor)), kept = state.zoom / zoom;
  zoomTo(zoom, x + (state.x - x) * kept, y + (state.y - y) * kept);
}
function panBy(canvas, dx, dy) {
  const { scale } = placed(canvas, page.images[canvas.place].size), r = canvas.width / canvas.getBoundingClientRect().width;
  const [height, width] = page.images[canvas.place].size;
  zoomTo(state.zoom, state.x - dx * r / (width * scale), state.y - dy * r / (height * scale));
}

const isCell = (target) => target.tagName === "CANVAS" && target.place !== undefined;
const bench = element("bench"), fingers = new Map();
let dragged = 0, apart = 0;
bench.addEventListener("wheel", (event) => {
  if (!isCell(event.target) || !(event.ctrlKey || event.metaKey || event.altKey)) return;
  event.preventDefault();
  zoomAt(event.target, event, Math.exp(-event.deltaY * (event.ctrlKey && Math.abs(event.deltaY) < 50 ? 0.012 : 0.0022)));
}, { passive: false });
bench.addEventListener("pointerdown", (event) => {
  if (!isCell(event.target)) return;
  if (!fingers.size) dragged = 0;
  fingers.set(event.pointerId, { x: event.clientX, y: event.clientY, cell: event.target });
  apart = 0;
  if (state.zoom > 1) event.target.setPointerCapture(event.pointerId);
});
bench.addEventListener("pointermove", (event) => {
  const last = fingers.get(event.pointerId);
  if (!last) return;
  const dx = event.clientX - last.x, dy = event.clientY - last.y;
  dragged += Math.abs(dx) + Math.abs(dy);
  [last.x, last.y] = [event.clientX, event.clientY];
  if (fingers.size === 2) {
    const [p, q] = [...fingers.values()], now = Math.hypot(p.x - q.x, p.y - q.y);
    if (apart) zoomAt(last.cell, { clientX: (p.x + q.x) / 2, clientY: (p.y + q.y) / 2 }, now / apart);
    apart = now;
  } else if (state.zoom > 1 && last.cell.isConnected) panBy(last.cell, dx, dy);
});
["pointerup", "pointercancel"].forEach((name) => addEventListener(name, (event) => fingers.delete(event.pointerId)));
bench.addEventListener("click", (event) => {
  const link = event.target.closest("[data-image]");
  if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) { event.preventDefault(); change({ image: Number(link.dataset.image), at: topPlace() }, { step: true }); }
  else if (isCell(event.target) && state.image === null && dragged < 6) change({ image: event.target.place, at: topPlace() }, { step: true });
});
bench.addEventListener("dblclick", (event) => { if (isCell(event.target) && state.image !== null) zoomAt(event.target, event, event.shiftKey ? 0.5 : 2); });

let settling = 0;
grid.addEventListener("scroll", () => {
  fillIn();
  clearTimeout(settling);
  settling = setTimeout(() => { if (state.image === null) { state.at = topPlace(); keepLink(); } }, 250);
}, { passive: true });

element("sort").addEventListener("change", (event) => change({ sort: event.target.value, at: null }, { step: true, top: true }));
element("size").addEventListener("input", (event) => change({ size: Number(event.target.value) }));
element("first").addEventListener("change", (event) => change({ a: Number(event.target.value) }, { step: true }));
element("nearer").addEventListener("click", () => zoomTo(state.zoom * 1.5));
element("farther").addEventListener("click", () => zoomTo(state.zoom / 1.5));
element("whole").addEventListener("click", () => zoomTo(1));
element("before").addEventListener("click", () => step(-1));
element("after").addEventListener("click", () => step(1));
element("back").addEventListener("click", () => change({ image: null }, { step: true }));
element("help").addEventListener("click", () => element("keys").showModal());
element("keys").addEventListener("click", () => element("keys").close());
document.querySelectorAll("[data-layer]").forEach((button) => button.addEventListener("click", () => toggleLayer(button.dataset.layer)));
document.querySelectorAll("[data-class]").forEach((button) => button.addEventListener("click", () => change({ hidden: toggled(state.hidden, Number(button.dataset.class)) })));

const pan = (x, y) => () => state.zoom > 1 ? zoomTo(state.zoom, state.x + x * 0.15 / state.zoom, state.y + y * 0.15 / state.zoom) : state.image !== null && x ? step(x) : false;
const KEYS = {
  1: () => toggleLayer("photo"), 2: () => toggleLayer("truth"), 3: () => toggleLayer("prediction"), 4: () => toggleLayer("error"), 5: () => toggleLayer("disagreement"),
  "+": () => zoomTo(state.zoom * 1.5), "=": () => zoomTo(state.zoom * 1.5), "-": () => zoomTo(state.zoom / 1.5), 0: () => zoomTo(1),
  ArrowLeft: pan(-1, 0), ArrowRight: pan(1, 0), ArrowUp: pan(0, -1), ArrowDown: pan(0, 1),
  s: () => change({ sort: SORTS[(SORTS.indexOf(state.sort) + 1) % SORTS.length], at: null }, { top: true }),
  n: () => state.image === null ? change({ image: topPlace() ?? order[0] }, { step: true }) : step(1), p: () => state.image !== null && step(-1),
  Escape: () => state.image !== null && change({ image: null }, { step: true }), "?": () => element("keys").showModal(),
};
addEventListener("keydown", (event) => {
  const isElsewhere = event.target.closest("input, select, textarea, dialog[open]") || event.ctrlKey || event.metaKey || event.altKey;
  if (isElsewhere || !KEYS[event.key]) return;
  if (KEYS[event.key]() !== false) event.preventDefault();
});

function goTo(place) {
  if (place === null) return;
  grid.scrollTop = order.indexOf(place) * rowHeight();
  fillIn();
}

function follow() {
  state = viewOf(location.hash);
  one.hidden = state.image === null;
  grid.hidden = state.image !== null;
  layOut({ keepPlace: false });
  goTo(state.at);
  showPairs();
  showOne();
  showControls();
  redraw();
}
addEventListener("popstate", follow);
addEventListener("hashchange", () => { if ((location.hash || "#") !== linkOf(state)) follow(); });
if (page.trials.length && page.images.length) {
  const scores = document.createElement("script");
  scores.src = "scores.js";
  scores.onload = () => {
    follow();
    new ResizeObserver(fillIn).observe(grid);
    const tell = (what) => { document.body.dataset[what] = Math.round(performance.now()); }; // milliseconds since it was asked for
    tell("ready");
    Promise.all(canvases().map((canvas) => canvas.drawn)).then(() => tell("drawn"));
  };
  scores.onerror = () => { element("missing").hidden = false; };
  document.head.append(scores);
}

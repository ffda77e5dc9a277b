// All images in rows, all trials in columns; only what is in view is there.
const element = (id) => document.getElementById(id);
function made(tag, attributes = {}, ...children) {
  const one = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) one.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) one.setAttribute(name, value === true ? "" : value);
  }
  one.append(...children);
  return one;
}
const GAP = 6, CAPTION = 30, HEAD = 64;
const grid = element("grid"), plane = element("plane"), heads = element("heads");
let order = [], shownRows = new Map();

const shapes = page.images.map(({ size: [height, width] }) => height / width).sort((p, q) => p - q);
const shape = Math.min(1.6, Math.max(0.45, shapes[shapes.length >> 1] ?? 0.75));
const cellSize = () => [state.size, Math.round(state.size * shape)];
const rowHeight = () => cellSize()[1] + CAPTION + 10;
const leftOf = (column) => column * (state.size + GAP);

function canvasOf(place, trial, [width, height]) {
  const canvas = made("canvas", { role: "img", width: Math.round(width * ratio()), height: Math.round(height * ratio()) });
  canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
  canvas.place = place; canvas.trial = trial;
  canvas.setAttribute("aria-label", spoken(place, trial));
  canvas.title = trial === null ? "truth" : `trial ${page.trials[trial].number}`;
  canvas.drawn = draw(canvas, place, trial);
  return canvas;
}

function spoken(place, trial) {
  const { id } = page.images[place];
  if (trial === null) return `Truth of ${id}`;
  return `Trial ${page.trials[trial].number} on ${id}: ${page.metric} ${text3(page.trials[trial].single[place])}`;
}

function captionOf(place) {
  const image = page.images[place], copy = { ...state, image: place };
  const parts = [made("a", { href: linkOf(copy), "data-image": place, title: "This image alone; its link can be sent" }, image.id)];
  parts.push(made("span", { title: "Of all pairs of trials: the pixels where the two differ, over those where one of them says a class" }, `disagreement ${text3(image.disagreement)}`));
  if (page.trials.length > 1) {
    const [a, b] = [page.trials[state.a], page.trials[state.b]], gain = gainOf(place), done = doneBy(place);
    parts.push(made("span", {}, `${a.number} − ${b.number}: `, made("b", { class: tone(gain) }, signed(gain))));
    const share = Math.abs(done) / (mostDone() || 1);
    parts.push(made("span", { class: "does", title: "What this image adds to the difference over all images" },
      made("i", { class: tone(done), style: `width:${(46 * share).toFixed(1)}px` }), `adds ${signed(done, 4)}`));
  }
  return made("div", { class: "caption" }, ...parts);
}
const tone = (value) => value === null || value === 0 ? "even" : sign * value > 0 ? "up" : "down";
let mostDoneOf = {};
function mostDone() {
  const key = `${state.a} ${state.b}`;
  if (mostDoneOf.key !== key) mostDoneOf = { key, value: Math.max(...page.images.map((_, place) => Math.abs(doneBy(place)))) };
  return mostDoneOf.value;
}

function layOut({ keepPlace = true } = {}) {
  const top = keepPlace ? topPlace() : null;
  order = ordered();
  plane.style.width = `${leftOf(page.trials.length + 1)}px`;
  plane.style.height = `${HEAD + order.length * rowHeight()}px`;
  grid.style.setProperty("--cell", `${state.size}px`);
  shownRows.forEach((row) => row.box.remove());
  shownRows = new Map();
  heads.replaceChildren(made("div", { class: "head truth" }, made("b", {}, "Truth"), made("small", {}, page.images.length < page.total ? `${page.images.length} of ${page.total} images` : `${page.total} images`)));
  heads.columns = new Map();
  grid.scrollTop = top === null ? 0 : Math.max(0, order.indexOf(top)) * rowHeight();
  fillIn();
}

const topPlace = () => order.length && grid.scrollTop > 4 ? order[Math.min(order.length - 1, Math.round(grid.scrollTop / rowHeight()))] : null;

function fillIn() {
  if (!grid.clientWidth || state.image !== null) return;
  const high = rowHeight(), step = state.size + GAP, [width, height] = cellSize();
  const firstRow = Math.max(0, Math.floor((grid.scrollTop - HEAD) / high)), lastRow = Math.min(order.length - 1, Math.ceil((grid.scrollTop + grid.clientHeight) / high));
  const first = Math.max(0, Math.floor(grid.scrollLeft / step) - 0), last = Math.min(page.trials.length - 1, Math.ceil((grid.scrollLeft + grid.clientWidth) / step) - 1);
  const wanted = new Set();
  for (let k = firstRow; k <= lastRow; k++) wanted.add(order[k]);
  shownRows.forEach((row, place) => { if (!wanted.has(place)) { row.box.remove(); shownRows.delete(place); } });
  for (let k = firstRow; k <= lastRow; k++) {
    const place = order[k];
    let row = shownRows.get(place);
    if (!row) {
      const box = made("div", { class: "row", role: "group", "aria-label": page.images[place].id }, captionOf(place));
      box.style.top = `${HEAD + k * high}px`; box.style.height = `${high}px`;
      const truth = canvasOf(place, null, [width, height]);
      truth.classList.add("pinned");
      box.append(truth);
      plane.append(box);
      shownRows.set(place, row = { box, cells: new Map() });
    }
    row.cells.forEach((canvas, t) => { if (t < first || t > last) { canvas.remove(); row.cells.delete(t); } });
    for (let t = first; t <= last; t++) if (!row.cells.has(t)) {
      const canvas = canvasOf(place, t, [width, height]);
      canvas.style.left = `${leftOf(t + 1)}px`;
      row.box.append(canvas);
      row.cells.set(t, canvas);
    }
  }
  heads.columns.forEach((head, t) => { if (t < first || t > last) { head.remove(); heads.columns.delete(t); } });
  for (let t = first; t <= last; t++) if (!heads.columns.has(t)) {
    const head = headOf(t);
    head.style.left = `${leftOf(t + 1)}px`;
    heads.append(head);
    heads.columns.set(t, head);
  }
}

function headOf(t) {
  const trial = page.trials[t];
  const choose = (side) => made("button", {
    type: "button", class: `side ${side}`, "data-keep": `${side} ${t}`, "aria-pressed": String(state[side] === t), title: `Compare: ${side.toUpperCase()} is trial ${trial.number}`,
    "aria-label": `Trial ${trial.number} as ${side.toUpperCase()} of the pair`, onclick: () => change({ [side]: t }),
  }, side.toUpperCase());
  const marks = [trial.winner && made("span", { class: "mark best" }, "winner"), trial.untuned && made("span", { class: "mark base" }, "untuned"), trial.repeats !== null && made("span", { class: "mark" }, `seed of ${trial.repeats}`)];
  return made("div", { class: "head", title: trial.said },
    made("div", { class: "name" }, made("b", {}, `${trial.number}`), ...marks.filter(Boolean), made("span", { class: "score" }, text3(trial.overall))),
    made("div", { class: "own" }, made("small", {}, trial.said), page.trials.length > 1 ? choose("a") : "", page.trials.length > 1 ? choose("b") : ""));
}

const canvases = () => [...document.querySelectorAll("canvas")].filter((canvas) => canvas.place !== undefined);
let redrawing = false;
function redraw() {
  if (redrawing) return;
  redrawing = true;
  requestAnimationFrame(() => { redrawing = false; canvases().forEach((canvas) => draw(canvas, canvas.place, canvas.trial)); });
}

// What is shown, and its link: everything that differs from the first view stands in the part of the address after #.
const LAYERS = ["photo", "truth", "prediction", "error", "disagreement"];
const SORTS = ["disagreement", "drives", "a", "b", "worst", "name"];
const SIZES = [110, 420];
const numbered = new Map(page.trials.map((trial, t) => [trial.number, t]));
const named = new Map(page.images.map((image, place) => [image.id, place]));
const firstView = () => ({
  sort: "disagreement", a: 0, b: page.trials.length > 1 ? (page.trials.findIndex((t, k) => t.untuned && k > 0) + 1 || 2) - 1 : 0,
  layers: new Set(["photo", "truth", "prediction"]), hidden: new Set(), image: null, at: null, zoom: 1, x: 0.5, y: 0.5,
  size: matchMedia("(max-width: 700px)").matches ? 150 : 210,
});
let state = firstView();

function linkOf(view) {
  const first = firstView(), parts = [];
  const add = (name, value) => parts.push(`${name}=${encodeURIComponent(value).replace(/%2C/g, ",").replace(/%2F/g, "/")}`);
  if (view.sort !== first.sort) add("sort", view.sort);
  if (view.a !== first.a || view.b !== first.b) add("pair", `${page.trials[view.a].number},${page.trials[view.b].number}`);
  const layers = LAYERS.filter((name) => view.layers.has(name)).join(",");
  if (layers !== LAYERS.filter((name) => first.layers.has(name)).join(",")) add("layers", layers);
  if (view.hidden.size) add("without", [...view.hidden].sort((p, q) => p - q).join(","));
  if (view.zoom > 1) add("zoom", [view.zoom.toFixed(2), view.x.toFixed(4), view.y.toFixed(4)].join(","));
  if (view.size !== first.size) add("size", view.size);
  if (view.image !== null) add("image", page.images[view.image].id);
  else if (view.at !== null) add("at", page.images[view.at].id);
  return "#" + parts.join("&");
}

function viewOf(link) {
  const view = firstView(), asked = new URLSearchParams(link.replace(/^#/, "").replace(/\+/g, "%2B"));
  const parts = (name) => (asked.get(name) ?? "").split(",");
  const within = (value, low, high, otherwise) => Number.isFinite(value) ? Math.min(high, Math.max(low, value)) : otherwise;
  if (SORTS.includes(asked.get("sort"))) view.sort = asked.get("sort");
  const [a, b] = parts("pair").map((text) => numbered.get(Number(text)));
  if (asked.has("pair") && a !== undefined && b !== undefined) [view.a, view.b] = [a, b];
  if (asked.has("layers")) view.layers = new Set(parts("layers").filter((name) => LAYERS.includes(name)));
  if (asked.has("without")) view.hidden = new Set(parts("without").map(Number).filter((k) => k > 0 && k <= UNKNOWN));
  if (asked.has("zoom")) {
    const [zoom, x, y] = parts("zoom").map(Number);
    view.zoom = within(zoom, 1, 32, 1);
    [view.x, view.y] = [within(x, 0, 1, 0.5), within(y, 0, 1, 0.5)];
  }
  if (asked.has("size")) view.size = within(Number(asked.get("size")), ...SIZES, view.size);
  view.image = named.get(asked.get("image")) ?? null;
  view.at = named.get(asked.get("at")) ?? null;
  return view;
}

// A step that one goes back from is an entry of the browser's history; the rest only keeps the address true.
function keepLink({ step = false } = {}) {
  const link = linkOf(state);
  if (link === (location.hash || "#")) return;
  history[step ? "pushState" : "replaceState"](null, "", link);
}

const sign = page.lowerIsBetter ? -1 : 1;
const known = (value) => Number.isNaN(value) ? null : value;
const gainOf = (place) => known(page.trials[state.a].single[place] - page.trials[state.b].single[place]);
const doneBy = (place) => known(page.trials[state.a].influence[place] - page.trials[state.b].influence[place]) ?? 0;
function meanOf(place) {
  const values = page.trials.map((trial) => trial.single[place]).filter((value) => !Number.isNaN(value));
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
}

function ordered() {
  const by = {
    disagreement: (place) => -page.images[place].disagreement,
    drives: (place) => -Math.abs(doneBy(place)),
    a: (place) => gainOf(place) === null ? Infinity : -sign * gainOf(place),
    b: (place) => gainOf(place) === null ? Infinity : sign * gainOf(place),
    worst: (place) => meanOf(place) === null ? Infinity : sign * meanOf(place),
    name: () => 0,
  }[state.sort];
  const places = page.images.map((image, place) => ({ place, key: by(place), id: image.id }));
  const byName = new Intl.Collator(undefined, { numeric: true });
  return places.sort((p, q) => (p.key < q.key ? -1 : p.key > q.key ? 1 : byName.compare(p.id, q.id))).map(({ place }) => place);
}

// One image of one trial on a canvas: the photograph, and over it what is true, found and wrong, at the common zoom.
const FILL = 0.5, SHADES = page.classes.map(({ rgb }) => rgb), ERRORS = page.errors.map(({ rgb }) => rgb);
const MOST_OVERLAYS = 160;
const overlays = new Map();

// Pixels of an overlay: RGBA at the size of the maps. `trial` is null for the truth.
function painted(maps, trial, [height, width]) {
  const image = new ImageData(width, height), pixels = image.data, count = width * height;
  const put = (k, [red, green, blue], alpha) => { k *= 4; pixels[k] = red; pixels[k + 1] = green; pixels[k + 2] = blue; pixels[k + 3] = alpha * 255; };
  const seen = (code) => code > 0 && !state.hidden.has(code);
  const shadeOf = (code) => code === UNKNOWN ? ERRORS[3] : SHADES[code - 1];
  const truth = codesOf(maps[0], count);
  if (trial === null) {
    for (let k = 0; k < count; k++) if (seen(truth[k])) put(k, shadeOf(truth[k]), truth[k] === UNKNOWN ? 0.75 : FILL);
    if (state.layers.has("disagreement")) {
      const levels = codesOf(maps[maps.length - 1], count);
      for (let k = 0; k < count; k++) if (levels[k]) put(k, [255, 236 - 22 * levels[k], 0], 0.35 + 0.6 * levels[k] / page.levels);
    }
  } else {
    const found = codesOf(maps[trial + 1], count);
    if (state.layers.has("prediction")) for (let k = 0; k < count; k++) if (seen(found[k])) put(k, shadeOf(found[k]), FILL);
    if (state.layers.has("error")) for (let k = 0; k < count; k++) {
      const t = seen(truth[k]) ? truth[k] : 0, f = seen(found[k]) ? found[k] : 0;
      if (t === UNKNOWN) put(k, ERRORS[3], 0.75);
      else if (t !== f) put(k, ERRORS[t && f ? 2 : t ? 0 : 1], 0.85);
    }
    if (state.layers.has("truth")) outline(truth, width, height, seen, put);
  }
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// White just inside the edge, dark just outside: seen on bright and on dark photographs.
function outline(truth, width, height, seen, put) {
  const steps = [[1, 0], [-1, 0], [0, 1], [0, -1]];
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    const k = y * width + x, own = truth[k];
    for (const [dx, dy] of steps) {
      if (x + dx < 0 || x + dx >= width || y + dy < 0 || y + dy >= height) continue;
      const other = truth[k + dy * width + dx];
      if (own === other || (!seen(own) && !seen(other)) || own === UNKNOWN || other === UNKNOWN) continue;
      put(k, seen(own) ? [255, 255, 255] : [0, 0, 0], seen(own) ? 1 : 0.5);
      break;
    }
  }
}

function overlayOf(place, trial, maps) {
  const shown = ["truth", "prediction", "error", "disagreement"].filter((name) => state.layers.has(name));
  const name = [place, trial, ...shown, "without", ...state.hidden].join(" ");
  let found = overlays.get(name);
  overlays.delete(name);
  found ??= painted(maps, trial, page.images[place].size);
  overlays.set(name, found);
  if (overlays.size > MOST_OVERLAYS) overlays.delete(overlays.keys().next().value);
  return found;
}

// How a canvas maps the unit square of an image: the whole image fits at zoom 1.
function placed(canvas, [height, width]) {
  const scale = Math.min(canvas.width / width, canvas.height / height) * state.zoom;
  return { scale, left: canvas.width / 2 - state.x * width * scale, top: canvas.height / 2 - state.y * height * scale };
}

async function draw(canvas, place, trial) {
  const ticket = canvas.ticket = {};
  try {
    const [photo, maps] = await Promise.all([photoOf(place), mapsOf(place)]);
    if (canvas.ticket === ticket) paint(canvas, place, trial, photo, maps);
  } catch (error) {
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#888";
    pen.font = `${12 * ratio()}px system-ui`;
    pen.fillText(error.message, 8, 20 * ratio());
  }
}

const ratio = () => Math.min(window.devicePixelRatio || 1, 2);
function paint(canvas, place, trial, photo, maps) {
  const pen = canvas.getContext("2d"), size = page.images[place].size, [height, width] = size;
  const { scale, left, top } = placed(canvas, size);
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.setTransform(scale, 0, 0, scale, left, top);
  const isGrey = trial !== null && state.layers.has("error");
  if (state.layers.has("photo")) {
    pen.imageSmoothingEnabled = scale * width < 4 * photo.naturalWidth;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(photo, 0, 0, width, height);
    if (isGrey) { // without colour and paler, so that the errors stand out; as in every picture of segdist
      pen.globalCompositeOperation = "saturation"; pen.fillStyle = "#808080"; pen.fillRect(0, 0, width, height);
      pen.globalCompositeOperation = "source-over"; pen.fillStyle = "rgb(230 230 230 / .45)"; pen.fillRect(0, 0, width, height);
    }
  } else {
    pen.fillStyle = isGrey ? "#d8d8d8" : "#4a4d52";
    pen.fillRect(0, 0, width, height);
  }
  pen.imageSmoothingEnabled = scale < 2;
  pen.drawImage(overlayOf(place, trial, maps), 0, 0, width, height);
  pen.setTransform(1, 0, 0, 1, 0, 0);
  if (trial !== null) badge(pen, canvas, trial, place);
  canvas.dataset.drawn = `${place} ${trial ?? "truth"}`;
}

const text3 = (value) => value === null || value === undefined || Number.isNaN(value) ? "–" : value.toFixed(3);
const signed = (value, digits = 3) => value === null || Number.isNaN(value) ? "–" : (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
function badge(pen, canvas, trial, place) {
  const text = text3(page.trials[trial].single[place]), r = ratio();
  pen.font = `600 ${11 * r}px system-ui, sans-serif`;
  const width = pen.measureText(text).width + 10 * r;
  pen.fillStyle = "rgb(20 22 26 / .78)";
  pen.beginPath(); pen.roundRect(4 * r, canvas.height - 21 * r, width, 17 * r, 4 * r); pen.fill();
  pen.fillStyle = "#fff";
  pen.fillText(text, 9 * r, canvas.height - 8.5 * r);
}

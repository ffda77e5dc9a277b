// What the page knows: text and numbers from the start, photographs and maps when an image comes into view.
const page = JSON.parse(document.getElementById("data").textContent);
const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const floatsOf = (text) => new Float32Array(bytesOf(text).buffer);
const UNKNOWN = page.classes.length + 1;

// Of each trial: its score in each image alone, what each image does for its score, and its score in resampled images.
window.segdistScores = (scores) => page.trials.forEach((trial, t) => {
  trial.single = floatsOf(scores[t].single);
  trial.influence = floatsOf(scores[t].influence);
  trial.resampled = floatsOf(scores[t].resampled);
});

const fileName = (place) => String(place).padStart(5, "0");
const MOST_ROWS = 80; // held at once
const rows = new Map(); // by place: a promise of the maps of an image, truth first, then a map a trial, then where they disagree
const arriving = new Map();
window.segdistRow = (place, text) => arriving.get(place)(text);

function mapsOf(place) {
  let found = rows.get(place);
  rows.delete(place); // and to the end: the oldest goes first
  found ??= new Promise((resolve, reject) => {
    arriving.set(place, resolve);
    const script = document.createElement("script");
    script.src = `maps/${fileName(place)}.js`;
    script.onload = () => script.remove();
    script.onerror = () => { rows.delete(place); reject(new Error(`${script.src} is not there`)); };
    document.head.append(script);
  }).then((text) => {
    arriving.delete(place);
    const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return new Response(stream).arrayBuffer();
  }).then((buffer) => unpacked(new Uint8Array(buffer), page.images[place].size));
  rows.set(place, found);
  if (rows.size > MOST_ROWS) rows.delete(rows.keys().next().value);
  return found;
}

// Code and length of each run in turn, seven bits a byte, map after map.
function unpacked(bytes, [height, width]) {
  const maps = [], pixels = height * width;
  let at = 0;
  const next = () => {
    let value = 0, shift = 0, byte;
    do { byte = bytes[at++]; value += (byte & 127) * 2 ** shift; shift += 7; } while (byte > 127);
    return value;
  };
  while (at < bytes.length) {
    const map = [];
    for (let filled = 0; filled < pixels;) { const code = next(), length = next(); map.push(code, length); filled += length; }
    maps.push(map);
  }
  return maps;
}

function codesOf(runs, pixels) {
  const codes = new Uint16Array(pixels);
  for (let k = 0, at = 0; k < runs.length; k += 2) { codes.fill(runs[k], at, at + runs[k + 1]); at += runs[k + 1]; }
  return codes;
}

const photos = new Map();
function photoOf(place) {
  let found = photos.get(place);
  photos.delete(place);
  found ??= new Promise((resolve, reject) => {
    const photo = new Image();
    photo.onload = () => resolve(photo);
    photo.onerror = () => { photos.delete(place); reject(new Error(`photos/${fileName(place)}.webp is not there`)); };
    photo.src = `photos/${fileName(place)}.webp`;
  });
  photos.set(place, found);
  if (photos.size > MOST_ROWS) photos.delete(photos.keys().next().value);
  return found;
}

// The paired bootstrap of one trial less another: mean difference, and what 95 of 100 resamplings lie between.
function paired(a, b) {
  const differences = a.resampled.map((value, k) => value - b.resampled[k]).filter((value) => !Number.isNaN(value)).sort();
  const at = (share) => {
    const place = share * (differences.length - 1), below = Math.floor(place), above = Math.ceil(place);
    return differences[below] + (place - below) * (differences[above] - differences[below]);
  };
  return { value: a.overall - b.overall, low: at(0.025), high: at(0.975), known: differences.length > 0 && page.total > 1 };
}

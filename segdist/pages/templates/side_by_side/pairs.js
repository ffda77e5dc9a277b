// A against every other trial: the interval of their difference as a bar; a click shows the images that drive it.
const list = element("pairs");
function showPairs() {
  if (page.trials.length < 2) { element("against").hidden = true; return; }
  const a = page.trials[state.a], others = page.trials.map((trial, t) => ({ trial, t, ...paired(a, trial) })).filter(({ t }) => t !== state.a);
  const ends = others.filter(({ known }) => known).flatMap(({ low, high }) => [low, high]);
  const low = Math.min(0, ...ends), high = Math.max(0, ...ends), wide = high - low || 1, at = (value) => 100 * (value - low) / wide;
  const chosen = element("first");
  if (!chosen.options.length) page.trials.forEach((trial, t) => chosen.append(new Option(`trial ${trial.number}${trial.winner ? ", winner" : trial.untuned ? ", untuned" : ""}  ${text3(trial.overall)}`, t)));
  chosen.value = state.a;
  const scrolled = list.scrollTop;
  list.replaceChildren(...others.map(({ trial, t, value, low, high, known }) => {
    const verdict = !known ? "open" : sign * low > 0 || sign * high < 0 ? (sign * value > 0 ? "up" : "down") : "open";
    const interval = known ? `${signed(low)} to ${signed(high)}` : "no interval";
    const bar = made("span", { class: "interval", "aria-hidden": "true" }, made("s", { style: `left:${at(0)}%` }));
    if (known) bar.append(made("i", { style: `left:${at(low)}%;right:${100 - at(high)}%` }), made("b", { style: `left:${at(value)}%` }));
    return made("li", {}, made("button", {
      type: "button", class: verdict, "data-pair": trial.number, "data-keep": `pair ${t}`, "aria-pressed": String(state.b === t), title: trial.said,
      "aria-label": `Trial ${a.number} minus trial ${trial.number}: ${signed(value)}, 95 % interval ${interval}. Show the images that drive it`,
      onclick: () => change({ b: t, sort: "drives", image: null, at: null }, { step: true, top: true }),
    }, made("span", { class: "who" }, made("b", {}, trial.number), trial.winner ? made("span", { class: "mark best" }, "winner") : "", trial.untuned ? made("span", { class: "mark base" }, "untuned") : ""), bar, made("span", { class: "gap" }, signed(value))));
  }));
  list.scrollTop = scrolled;
  const b = page.trials[state.b], found = others.find(({ t }) => t === state.b);
  element("pair").replaceChildren(...(found ? saidOfPair(a, b, found) : [made("p", {}, "Choose two different trials.")]));
}

function saidOfPair(a, b, { value, low, high, known }) {
  const clear = known && (sign * low > 0 || sign * high < 0);
  const better = sign * value > 0 ? a : b;
  const differ = Object.keys({ ...a.values, ...b.values }).filter((key) => a.values[key] !== b.values[key]);
  return [
    made("p", { class: "figure" }, `Trial ${a.number} − trial ${b.number}  `, made("b", {}, signed(value))),
    made("p", {}, known ? `95 % interval ${signed(low)} to ${signed(high)}: ` : "", clear ? `trial ${better.number} is better, beyond chance.` : "these images do not tell which is better."),
    differ.length ? made("dl", { class: "differ" }, ...differ.flatMap((key) => [made("dt", {}, key), made("dd", {}, `${a.values[key] ?? "–"}`, made("span", { "aria-label": "against" }, " / "), `${b.values[key] ?? "–"}`)])) : made("p", {}, "The searched values are the same."),
  ];
}

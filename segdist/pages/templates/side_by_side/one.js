// One image, every trial: the same canvases, larger, in lines.
const one = element("one"), cells = element("cells");
const inView = new IntersectionObserver((entries) => entries.forEach(({ isIntersecting, target }) => {
  if (isIntersecting && !target.firstChild.ticket) draw(target.firstChild, target.firstChild.place, target.firstChild.trial);
}), { rootMargin: "300px" });

function showOne() {
  const place = state.image, isShown = place !== null;
  one.hidden = !isShown;
  grid.hidden = isShown;
  document.body.classList.toggle("single", isShown);
  inView.disconnect();
  cells.replaceChildren();
  if (!isShown) return;
  const image = page.images[place], at = order.indexOf(place);
  element("which").textContent = image.id;
  element("about").textContent = `${at + 1} of ${order.length}, disagreement ${text3(image.disagreement)}` +
    (page.trials.length > 1 ? `; trial ${page.trials[state.a].number} − trial ${page.trials[state.b].number}: ${signed(gainOf(place))}, adds ${signed(doneBy(place), 4)} to their difference` : "");
  element("before").disabled = at <= 0;
  element("after").disabled = at >= order.length - 1;
  const room = one.clientWidth - 2 * GAP, width = room < 520 ? room : Math.min(room, Math.round(state.size * 1.6)), height = Math.round(width * image.size[0] / image.size[1]);
  [null, ...page.trials.keys()].forEach((t) => {
    const trial = t === null ? null : page.trials[t];
    const canvas = made("canvas", { role: "img", "aria-label": spoken(place, t), width: Math.round(width * ratio()), height: Math.round(height * ratio()) });
    canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
    [canvas.place, canvas.trial] = [place, t];
    const said = trial === null ? [made("b", {}, "Truth")] : [made("b", {}, `Trial ${trial.number}`), trial.winner ? made("span", { class: "mark best" }, "winner") : "", trial.untuned ? made("span", { class: "mark base" }, "untuned") : "", made("small", {}, trial.said)];
    const figure = made("figure", { style: `width:${width}px` }, canvas, made("figcaption", { title: trial?.said }, ...said));
    cells.append(figure);
    inView.observe(figure);
  });
}

function step(by) {
  const at = order.indexOf(state.image) + by;
  if (at >= 0 && at < order.length) change({ image: order[at] }, { step: true });
}

const AT_ONCE = window.innerWidth < 600 ? 8 : 24;
/* ---- the training */
function drawTraining() {
  const { losses, rates, validation, metrics } = data.curves;
  const charts = {
    loss: () => [
      [...losses.map((c, i) => line(c.name, c.x, c.y, c.name === "loss" ? { line: { width: 2.6, color: "#17202b" } } : { line: { width: 1.6, color: COLOURS[(i + 9) % 10] } })),
        ...validation.map((c) => line(c.name, c.x, c.y, { line: { width: 2, dash: "dash" } }))],
      { xaxis: axis("iteration"), yaxis: axis("", { rangemode: "tozero" }) }],
    rate: () => [rates.map((c) => line("learning rate", c.x, c.y)),
      { xaxis: axis("iteration"), yaxis: axis("", { rangemode: "tozero", exponentformat: "power" }), showlegend: false }],
    metrics: () => [metrics.map((c) => line(c.name, c.x, c.y, { mode: "lines+markers" })),
      { xaxis: axis("iteration", { rangemode: "tozero" }), yaxis: axis("", { range: [0, 100] }) }],
  };
  for (const [name, figure] of Object.entries(charts)) {
    document.querySelectorAll(`#training [data-chart="${name}"]`).forEach((node) => whenSeen(node, () => draw(node, ...figure())));
  }
}

/* ---- the charts of a data set */
const NO_CURVE = "There is no detection, so there is no curve.";
const UNIT = { range: [0, 1.02], tickformat: ".0%" };

function drawScore(node, curve) {
  if (!curve || !curve.score.length) { say(node, NO_CURVE); return; }
  const names = [["precision", "precision"], ["recall", "recall"], ["f1", "F1"]];
  const traces = names.map(([key, name], i) => line(name, curve.score, curve[key], { mode: "lines", line: { width: key === "f1" ? 2.8 : 1.8, color: COLOURS[[0, 2, 1][i]] } }));
  const best = curve.best, shapes = [], annotations = [];
  if (best !== null) {
    shapes.push({ type: "line", x0: best, x1: best, y0: 0, y1: 1, yref: "paper", line: { color: "#17202b", width: 1, dash: "dot" } });
    annotations.push({ x: best, y: 1, yref: "paper", yanchor: "bottom", text: `best ${best.toFixed(2)}`, showarrow: false, font: { size: 11.5 } });
  }
  draw(node, traces, { xaxis: axis("score threshold", { range: [0, 1] }), yaxis: axis("", UNIT), shapes, annotations, margin: { ...BASE.margin, t: 24 }, hovermode: "x unified", hoverlabel: {} });
}

function drawPrecision(node, curve) {
  if (!curve || !curve.score.length) { say(node, NO_CURVE); return; }
  const trace = line("", curve.recall, curve.precision, { mode: "lines", customdata: curve.score, hovertemplate: "recall %{x:.1%}, precision %{y:.1%}<br>from score %{customdata:.2f} on<extra></extra>" });
  draw(node, [trace], { xaxis: axis("recall", UNIT), yaxis: axis("precision", UNIT), showlegend: false });
}

function drawIou(node, set) {
  const traces = set.iou.series.map((s, i) => line(s.name, set.iou.x, s.y, i ? { line: { width: 1.4 } } : { line: { width: 3, color: "#17202b" } }));
  draw(node, traces, { xaxis: axis("IoU that a box must reach", { tickformat: ".2f" }), yaxis: axis("", { range: [0, 102] }), showlegend: traces.length <= 12 });
}

function drawCalibration(node, set) {
  const bins = set.calibration.filter((bin) => bin.count);
  if (!bins.length) { say(node, "There are no detections, so scores cannot be judged."); return; }
  const bars = { type: "bar", x: bins.map((b) => b.middle), y: bins.map((b) => b.right), width: 0.092, marker: { color: "#1f5fa8", opacity: 0.85 },
    customdata: bins.map((b) => [b.score, b.count]), hovertemplate: "mean score %{customdata[0]:.2f}: %{y:.1%} are right<br>%{customdata[1]} detections<extra></extra>" };
  const ideal = { type: "scatter", mode: "lines", x: [0, 1], y: [0, 1], line: { color: "#8a95a1", width: 1.5, dash: "dash" }, hoverinfo: "skip" };
  draw(node, [bars, ideal], { xaxis: axis("score", { range: [0, 1] }), yaxis: axis("share that is right", UNIT), showlegend: false, bargap: 0 });
}

function drawConfusion(node, set) {
  const { labels, shares, counts } = set.confusion;
  const heat = { type: "heatmap", x: labels, y: labels, z: shares, customdata: counts, colorscale: [[0, "#fff"], [1, "#1f5fa8"]], showscale: false,
    hovertemplate: "%{y} found as %{x}: %{customdata}<extra></extra>" };
  draw(node, [heat], { xaxis: axis("", { side: "top" }), yaxis: axis("", { autorange: "reversed" }), showlegend: false });
}

function drawSet(block, set) {
  const chart = (name) => block.querySelector(`[data-chart="${name}"]`);
  const charts = [["iou", drawIou], ["calibration", drawCalibration], ["confusion", drawConfusion]];
  for (const [name, work] of charts) if (chart(name)) whenSeen(chart(name), () => work(chart(name), set));
  const choice = block.querySelector('[data-control="class"]');
  const curves = () => { drawScore(chart("score"), set.curves[choice.value]); drawPrecision(chart("pr"), set.curves[choice.value]); };
  choice.addEventListener("change", curves);
  whenSeen(chart("score"), curves);
}

/* ---- the gallery: tabs, filters, cards */
function gallery(block, set) {
  const tabs = [...block.querySelectorAll('[role="tab"]')], cards = block.querySelector(".cards");
  const filters = [...block.querySelectorAll("[data-filter]")], more = block.querySelector("[data-more]");
  let kind = tabs[0].dataset.kind, shown = AT_ONCE;
  const ofKind = () => set.crops.filter((crop) => crop.kind === kind);
  const chosen = () => ofKind().filter((crop) => filters.every((f) => !f.value || crop[f.dataset.filter] === f.value));

  function fill() {
    for (const filter of filters) {
      const values = [...new Set(ofKind().map((crop) => crop[filter.dataset.filter]))].filter(Boolean).sort();
      filter.replaceChildren(make("option", { value: "" }, "all"), ...values.map((v) => make("option", { value: v }, v)));
      filter.parentElement.hidden = values.length < 1;
      filter.disabled = values.length < 2;
    }
  }
  function render() {
    block.querySelector("[data-clear]").hidden = filters.every((filter) => !filter.value);
    const all = ofKind(), some = chosen(), now = some.slice(0, shown);
    cards.classList.toggle("whole", kind === "image");
    cards.replaceChildren(...now.map((crop, i) => card(crop, () => show(some, i))));
    block.querySelector("[data-count]").textContent = some.length === all.length ? `${all.length} shown` : `${some.length} of ${all.length} shown`;
    block.querySelector("[data-about]").textContent = set.about[kind];
    if (!some.length) cards.append(make("p", { className: "empty" }, all.length ? "None fits these filters." : "There are none of these."));
    more.hidden = some.length <= shown;
  }
  function choose(tab) {
    tabs.forEach((other) => other.setAttribute("aria-selected", String(other === tab)));
    kind = tab.dataset.kind;
    shown = AT_ONCE;
    fill();
    render();
  }
  tabs.forEach((tab) => tab.addEventListener("click", () => choose(tab)));
  filters.forEach((filter) => filter.addEventListener("change", () => { shown = AT_ONCE; render(); }));
  block.querySelector("[data-clear]").addEventListener("click", () => { filters.forEach((f) => { f.value = ""; }); render(); });
  more.addEventListener("click", () => { shown += AT_ONCE; render(); });
  choose(tabs.find((tab) => set.crops.some((crop) => crop.kind === tab.dataset.kind)) || tabs[0]);
}

drawTraining();
document.querySelectorAll(".set").forEach((block) => {
  const set = data.sets[Number(block.dataset.set)];
  drawSet(block, set);
  if (set.crops.length) gallery(block, set);
});

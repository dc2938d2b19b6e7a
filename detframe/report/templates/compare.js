function drawRuns(name, layout) {
  const node = document.querySelector(`[data-chart="${name}"]`);
  const traces = data[name].map((curve, i) => line(data.names[i], curve.x, curve.y, { connectgaps: true })).filter((trace) => trace.x.length);
  whenSeen(node, () => draw(node, traces, { xaxis: axis("iteration", { rangemode: "tozero" }), yaxis: axis("", layout) }));
}

drawRuns("loss", { rangemode: "tozero" });
drawRuns("ap", { range: [0, 100] });
document.querySelectorAll("[data-set]").forEach((block) => {
  const crops = data.sets[Number(block.dataset.set)].changed, cards = block.querySelector(".cards");
  if (cards) cards.replaceChildren(...crops.map((crop, i) => card(crop, () => show(crops, i))));
});

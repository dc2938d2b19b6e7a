"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#1f5fa8", "#d9480f", "#17795a", "#7a4fb5", "#b07c00", "#0b8a9c", "#b8336a", "#5b6775", "#6b8e23", "#8c4a2f"];

function make(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (name in node) node[name] = value; else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/* ---- charts: drawn when they come near the screen */
const BASE = {
  font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", size: 12, color: "#17202b" },
  paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", colorway: COLOURS, hovermode: "closest",
  margin: { l: 48, r: 12, t: 12, b: 44 }, dragmode: false, showlegend: true,
  legend: { orientation: "h", x: 0, y: -0.2, yanchor: "top", font: { size: 11.5 } },
  hoverlabel: { bgcolor: "#17202b", bordercolor: "#17202b", font: { color: "#fff" } },
};
const AXIS = { gridcolor: "#e9edf1", linecolor: "#c9d0d8", zeroline: false, ticks: "outside", tickcolor: "#c9d0d8", ticklen: 4, fixedrange: true, automargin: true };

function axis(title, more) {
  return { ...AXIS, title: { text: title, standoff: 8, font: { size: 12, color: "#556270" } }, ...more };
}

function draw(node, traces, layout) {
  if (!traces.length) { say(node, "There is nothing to draw here."); return; }
  if (node.querySelector(".empty")) node.replaceChildren();
  const own = { ...BASE, ...layout, legend: { ...BASE.legend, ...(layout.legend || {}) } };
  Plotly.react(node, traces, own, { displayModeBar: false, responsive: true });
}

function say(node, text) {
  Plotly.purge(node);
  node.replaceChildren(make("p", { className: "empty" }, text));
}

function whenSeen(node, work) {
  if (!("IntersectionObserver" in window)) { work(); return; }
  const observer = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) { observer.disconnect(); work(); }
  }, { rootMargin: "600px" });
  observer.observe(node);
}

function line(name, x, y, more) {
  return { type: "scatter", mode: x.length > 12 ? "lines" : "lines+markers", name, x, y, line: { width: 2 }, marker: { size: 6 }, connectgaps: false, ...more };
}

/* ---- tables that sort by a click on a column's name; totals stay where they are */
function value(row, column) {
  const cell = row.cells[column];
  if (!("value" in cell.dataset)) return cell.textContent.trim().toLowerCase();
  return cell.dataset.value === "" ? null : Number(cell.dataset.value);
}

function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
}

function sortBy(table, header) {
  const column = header.cellIndex, first = header.querySelector("button").dataset.first;
  const now = header.getAttribute("aria-sort");
  const next = now === null ? first : now === "ascending" ? "descending" : "ascending";
  table.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", next);
  const body = table.tBodies[0], sign = next === "ascending" ? 1 : -1;
  const rows = [...body.rows].filter((row) => !("total" in row.dataset));
  rows.sort((a, b) => compare(value(a, column), value(b, column), sign));
  body.append(...rows);
}

document.querySelectorAll("table.sortable").forEach((table) => {
  table.querySelectorAll("th button").forEach((button) => {
    button.addEventListener("click", () => sortBy(table, button.closest("th")));
  });
});

const STATES = { found: "#0b8f6a", right: "#0b8f6a", ignored: "#8a95a1" };
const WRONG = "#e8590c", SVG = "http://www.w3.org/2000/svg";

/* ---- pictures */
function rectangle(mark, focus) {
  const [x1, y1, x2, y2] = mark.box, box = document.createElementNS(SVG, "rect");
  const places = { x: x1, y: y1, width: Math.max(x2 - x1, 0.5), height: Math.max(y2 - y1, 0.5), fill: "none", stroke: STATES[mark.state] || WRONG,
    "stroke-width": focus ? 3 : 1.6, "vector-effect": "non-scaling-stroke", "stroke-dasharray": mark.state === "ignored" || mark.dashed ? "4 3" : "none" };
  for (const [name, v] of Object.entries(places)) box.setAttribute(name, v);
  const title = document.createElementNS(SVG, "title");
  title.textContent = words(mark);
  box.append(title);
  return box;
}

/* the place on the side where nothing is */
function outline(box) {
  const here = rectangle({ box, label: "", says: "the same place", state: "ignored", score: null, ann_id: null });
  here.setAttribute("stroke", "#17202b");
  here.setAttribute("stroke-opacity", "0.7");
  return here;
}

function words(mark) {
  const score = mark.score === null ? "" : ` ${mark.score.toFixed(2)}`;
  return `${mark.label}${score}: ${mark.says}${mark.ann_id === null ? "" : `, annotation ${mark.ann_id}`}`;
}

function pane(crop, marks, name) {
  const [x, y, width, height] = crop.frame, svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `${x} ${y} ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  const shade = (mark) => crop.focus && mark.box.every((v, i) => Math.abs(v - crop.focus[i]) < 0.01);
  for (const mark of marks) svg.append(rectangle(mark, shade(mark)));
  if (crop.focus && !marks.some(shade)) svg.append(outline(crop.focus));
  const image = make("img", { src: `data:image/jpeg;base64,${crop.picture}`, alt: `${name} of ${crop.name}`, loading: "lazy" });
  image.style.aspectRatio = `${width} / ${height}`;
  return make("div", { className: "pane" }, image, svg, make("span", { className: "tag" }, name));
}

/* what stands side by side: the annotation and what was found, or what each of several runs found */
function sides(crop) {
  return crop.panes || [{ name: "annotation", marks: crop.truth }, { name: "found", marks: crop.found }];
}

function panes(crop) {
  if (!crop.picture) return [make("div", { className: "pane gone" }, crop.problem)];
  return sides(crop).map((side) => pane(crop, side.marks, side.name));
}

function where(crop) {
  const ids = crop.ann_ids.length ? `, annotation ${crop.ann_ids.join(", ")}` : "";
  const left = crop.left_out ? `; ${crop.left_out} more boxes are not drawn` : "";
  return `${crop.name}, image ${crop.image_id}${ids}${left}`;
}

function card(crop, open) {
  const button = make("button", { type: "button", title: "Larger" }, make("div", { className: "panes" }, ...panes(crop)));
  button.addEventListener("click", open);
  return make("article", { className: "card", "data-file": crop.file }, button, make("p", { className: "says" }, crop.text), make("p", { className: "where", title: crop.file }, where(crop)));
}

function markTable(title, marks) {
  const cells = (mark) => [mark.label, mark.says, mark.ann_id === null ? mark.score.toFixed(3) : "", mark.ann_id === null ? "" : mark.ann_id, mark.box.map((v) => Math.round(v)).join(" ")];
  const row = (tag, texts) => make("tr", {}, ...texts.map((text) => make(tag, {}, String(text))));
  const names = ["class", "which is", "score", "annotation", "box"];
  const used = names.map((_, i) => i < 2 || marks.some((mark) => cells(mark)[i] !== ""));
  const kept = (texts) => texts.filter((_, i) => used[i]);
  const table = make("table", {}, make("thead", {}, row("th", kept(names))), make("tbody", {}, ...marks.map((mark) => row("td", kept(cells(mark))))));
  return make("div", {}, make("h3", {}, `${title}: ${marks.length}`), make("div", { className: "scroll" }, table));
}

const dialog = document.querySelector("dialog");
const open = { crops: [], at: 0 };

function show(crops, at) {
  open.crops = crops;
  open.at = (at + crops.length) % crops.length;
  const crop = crops[open.at];
  dialog.querySelector("[data-says]").textContent = crop.text;
  dialog.querySelector("[data-where]").textContent = `${where(crop)}: ${crop.file}`;
  dialog.querySelector(".panes").replaceChildren(...panes(crop));
  dialog.querySelector(".lists").replaceChildren(...sides(crop).map((side) => markTable(side.name, side.marks)));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) show(open.crops, open.at + step);
});
dialog.querySelectorAll("[data-step]").forEach((button) => button.addEventListener("click", () => show(open.crops, open.at + Number(button.dataset.step))));

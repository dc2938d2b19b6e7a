"""Write the tables of runs in the pages of docs/, and the plots beside them, from docs/runs.json.

What stands between <!-- runs: NAME --> and <!-- end --> is made here, for each group of runs of the file; a group with
a plot gets docs/images/NAME.svg, AP of small objects over what a training step costs. A measure of several seeds is a
list: the table has its mean, and all of them, and the plot a bar from the least to the best. --check changes nothing.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any
from xml.sax.saxutils import escape

DOCS = Path(__file__).resolve().parent.parent / "docs"
RUNS = DOCS / "runs.json"
COLUMNS = {"what": "what", "config": "config", "steps": "steps", "time": "time, s", "cost": "step / FPN's", "AP": "AP",
           "AP50": "AP50", "AP75": "AP75", "APs": "AP small"}  # fmt: skip
WIDTH, HEIGHT, MARGIN = 640, 400, 60
CHARACTER = 7.0  # width of a letter of a label

Row = dict[str, Any]
Box = tuple[float, float, float, float]  # x1, y1, x2, y2


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit code 1 where something is out of date")
    args = parser.parse_args()
    groups = json.loads(RUNS.read_text(encoding="utf-8"))
    wanted = {DOCS / "images" / f"{name}.svg": plot(group) for name, group in groups.items() if group.get("plot")}
    for page in sorted({DOCS / group["page"] for group in groups.values()}):
        wanted[page] = filled(page.read_text(encoding="utf-8"), groups)
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if args.check and stale:
        sys.stderr.write(f"out of date: {', '.join(map(str, stale))}; run `make docs`\n")
        return 1
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
    return 0


def filled(page: str, groups: dict[str, Any]) -> str:
    """The page with the table of each group in its place."""

    def made(found: re.Match[str]) -> str:
        group = groups[found[2]]
        return f"{found[1]}\n{table(group['rows'], group.get('columns', {}))}\n{found[3]}"

    return re.sub(r"(<!-- runs: (\S+) -->)\n.*?(<!-- end -->)", made, page, flags=re.DOTALL)


def table(rows: list[Row], titles: dict[str, str]) -> str:
    """Markdown; columns that no run has a value for are left out, and some have titles of the group's own."""
    columns = [name for name in COLUMNS if any(name in row for row in rows)]
    lines = [[titles.get(name, COLUMNS[name]) for name in columns], ["---"] * len(columns)]
    lines += [[cell(row.get(name, "")) for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def cell(value: Any) -> str:
    """A value as the table shows it; of several seeds the mean, and each."""
    if not isinstance(value, list):
        return str(value)
    return f"{mean(value):.1f} ({', '.join(map(str, value))})" if len(value) > 1 else str(value[0])


def plot(group: dict[str, Any]) -> str:
    """SVG: a point for each run that has a label and whose cost is known."""
    points = [
        (row["cost"], seeds if isinstance(seeds := row["APs"], list) else [seeds], row["label"])
        for row in group["rows"]
        if "cost" in row and "label" in row
    ]
    across = (0.0, max(x for x, _, _ in points) * 1.15)
    up = (min(min(ys) for _, ys, _ in points) - 1.0, max(max(ys) for _, ys, _ in points) + 1.0)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            MARGIN + (x - across[0]) / (across[1] - across[0]) * (WIDTH - 2 * MARGIN),
            HEIGHT - MARGIN - (y - up[0]) / (up[1] - up[0]) * (HEIGHT - 2 * MARGIN),
        )

    left, bottom = place(across[0], up[0])
    right, top = place(across[1], up[1])
    parts = [f'<path d="M{left:.0f} {top:.0f}V{bottom:.0f}H{right:.0f}" fill="none" stroke="#666"/>']
    parts += [_text(left - 6, place(0, y)[1] + 4, f"{y:.0f}", "end") for y in range(int(up[0]) + 1, int(up[1]) + 1, 2)]
    parts += [_text(place(x, up[0])[0], bottom + 18, str(x), "middle") for x in range(int(across[1]) + 1)]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in (place(x, mean(ys)) for x, ys, _ in points)]
    for x, ys, label in sorted(points, reverse=True):  # from the right, where labels have the room
        at, worst, best = place(x, mean(ys)), place(x, min(ys)), place(x, max(ys))
        if len(ys) > 1:
            parts.append(f'<path d="M{at[0]:.1f} {worst[1]:.1f}V{best[1]:.1f}" stroke="#1f77b4" stroke-width="2"/>')
        parts.append(f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="5" fill="#1f77b4"/>')
        box = _beside(at, len(label) * CHARACTER, taken)
        taken.append(box)
        parts.append(_text(box[0], box[3] - 3, label, "start"))
    parts.append(_text((left + right) / 2, HEIGHT - 14, "time of a training step, FPN = 1", "middle"))
    parts.append(_text(left, top - 14, f"{group.get('measure', 'AP of small objects')}: {group['title']}", "start"))
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13" fill="#222">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _beside(at: tuple[float, float], width: float, taken: Sequence[Box]) -> Box:
    """Where a label of a point stands, as x1, y1, x2, y2: to the right of it where nothing is there, else near that."""
    beside, before = at[0] + 9, at[0] - 9 - width
    places = [(x, dy) for heights in ((0, 13, -13), (26, -26)) for x in (beside, before) for dy in heights]
    boxes = [(x, at[1] + dy - 7, x + width, at[1] + dy + 7) for x, dy in places]
    return next((box for box in boxes if not any(_overlap(box, other) for other in taken)), boxes[0])


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


if __name__ == "__main__":
    sys.exit(main())

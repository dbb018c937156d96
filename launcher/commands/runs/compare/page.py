"""Style and script of the HTML report, which are inside the page: it loads nothing."""

from __future__ import annotations

COLORS = ("#4269d0", "#e15759", "#3ca951", "#b07aa1", "#ed9d3b", "#6cc5b0", "#9c6b4e", "#ff8ab7", "#84a000", "#777777")
"""Colors of the groups, in their order and again from the first."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ddd; padding: .2rem .7rem; text-align: left; overflow-wrap: anywhere; }
th { overflow-wrap: normal; white-space: nowrap; }
table.sortable th { cursor: pointer; user-select: none; }
th[aria-sort=ascending]::after { content: " \\25b2"; }
th[aria-sort=descending]::after { content: " \\25bc"; }
.wide { overflow-x: auto; }
.confusion td { text-align: right; padding: .1rem .4rem; min-width: 2rem; }
.note { color: #666; margin: .2rem 0; }
img { max-width: 100%; }
svg { width: 100%; height: auto; background: #fafafa; }
svg text { font-size: 12px; fill: #555; }
svg polyline { fill: none; stroke-width: 1.5; }
svg .cursor { stroke: #999; stroke-dasharray: 3 3; visibility: hidden; }
.values { min-height: 1.6rem; font-variant-numeric: tabular-nums; }
.values span { margin-right: 1.2rem; }
"""

SCRIPT = """
"use strict";
function key(cell) {
  const text = cell.textContent.trim();
  const found = text.replace(/,/g, "").match(/^[<\\s]*([+-]?[0-9.]+(?:e[+-]?[0-9]+)?)/i);
  return found && !isNaN(Number(found[1])) ? Number(found[1]) : text;
}
function order(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return a.localeCompare(b);
}
for (const head of document.querySelectorAll("table.sortable th")) {
  head.addEventListener("click", () => {
    const table = head.closest("table"), column = head.cellIndex, body = table.tBodies[0];
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    const rows = Array.from(body.rows);
    rows.sort((x, y) => sign * order(key(x.cells[column]), key(y.cells[column])));
    body.append(...rows);
  });
}
const panels = JSON.parse(document.getElementById("panels").textContent);
for (const svg of document.querySelectorAll("svg.panel")) {
  const panel = panels[Number(svg.dataset.panel)], cursor = svg.querySelector(".cursor");
  const values = svg.nextElementSibling;
  svg.addEventListener("mousemove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * panel.width;
    const step = panel.first + (x - panel.left) / (panel.right - panel.left) * (panel.last - panel.first);
    const nearer = (a, b) => Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a;
    const shown = panel.curves.map((curve) => curve.points.reduce(nearer));
    values.replaceChildren(...panel.curves.map((curve, i) => {
      const word = document.createElement("span");
      word.style.color = curve.color;
      word.textContent = curve.label + ", step " + shown[i][0] + ": " + shown[i][1].toPrecision(5);
      return word;
    }));
    const frac = (shown.reduce(nearer)[0] - panel.first) / ((panel.last - panel.first) || 1);
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, panel.left + frac * (panel.right - panel.left));
    cursor.style.visibility = "visible";
  });
  svg.addEventListener("mouseleave", () => { cursor.style.visibility = "hidden"; values.replaceChildren(); });
}
"""

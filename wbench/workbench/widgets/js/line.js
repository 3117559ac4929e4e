import colours from "./colours.json" with { type: "json" };
import { element, OWN_KEYS } from "./elements.js";
import { written } from "./rows.js";

// The elements of a table: a header, a row. What they do is given as functions.
const DASHES = { solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3" };
const PALETTE = Object.keys(colours.light.map).slice(0, 6); // the file lists it first, in its order

export const button = (text, label, onclick, attributes = {}) =>
  element("button", { type: "button", textContent: text, title: label, onclick, attributes: { "aria-label": label, ...attributes } });

export function headerOf({ key, title, unit, kind }, order, sort) {
  const arrow = order.key === key ? (order.down ? "▾" : "▴") : "";
  const text = unit ? `${title} (${unit})` : title;
  const direction = { "▾": "descending", "▴": "ascending" }[arrow] ?? "none";
  const sorter = element("button", { type: "button", title: `Sort by ${text}`, onclick: () => sort(key) }, [
    text, element("span", { textContent: arrow, attributes: { "aria-hidden": "true" } }),
  ]);
  return element("th", { className: kind, attributes: { scope: "col", "aria-sort": direction, "data-key": key } }, [sorter]);
}

export function widthOf({ key, kind, title, unit = "" }) {
  if (key === "name") return 0;
  if (key === "note") return 130;
  return kind === "time" ? 132 : Math.max(76, 7 * (title.length + unit.length) + 30);
}

// A row of the table; `reach` is its place in the tab order, `on` what its parts do.
export function lineOf(row, { columns, ticked, reach, theme, on }) {
  const tick = element("input", {
    type: "checkbox", checked: ticked, onchange: () => on.toggle(row.key),
    attributes: { "aria-label": `Overlay ${row.name}`, tabindex: reach, "data-control": "tick", ...OWN_KEYS },
  });
  const act = (control, text, label, onclick, more) =>
    button(text, `${label} ${row.name}`, onclick, { tabindex: reach, "data-control": control, ...OWN_KEYS, ...more });
  const actions = element("td", { className: "wbench-table-actions" }, [
    act("pin", row.pinned ? "★" : "☆", "Pin", () => on.edit(row.key, "pinned", !row.pinned), { "aria-pressed": Boolean(row.pinned) }),
    act("rename", "✎", "Rename", () => on.open(row.key, "name")),
    act("delete", "✕", "Delete", () => on.remove(row.key)),
  ]);
  const cells = columns.map((column) => cellOf(row, column, on));
  const line = element("tr", {
    className: row.pinned ? "pinned" : "",
    attributes: { tabindex: reach, "data-key": row.key, "aria-selected": ticked, ...OWN_KEYS },
  }, [element("td", {}, [tick]), element("td", {}, [swatch(row, theme)]), ...cells, actions]);
  line.addEventListener("focusin", () => on.activate(row.key));
  return line;
}

function cellOf(row, column, on) {
  const value = row[column.key];
  const text = written(value, column);
  const cell = element("td", {
    className: column.kind, textContent: text || (column.kind === "number" ? "–" : ""),
    title: column.kind === "number" ? String(value ?? "") : text, attributes: { "data-field": column.key },
  });
  if (column.key === "name" || column.key === "note") cell.ondblclick = () => on.open(row.key, column.key);
  return cell;
}

function swatch({ colour, dash, name }, theme) {
  const drawing = svg("svg", { width: 30, height: 12, role: "img", "aria-label": `line of ${name}` });
  if (!Number.isInteger(colour)) return drawing;
  const stroke = colours[theme].map[PALETTE[colour % PALETTE.length]];
  drawing.append(svg("line", { x1: 0, x2: 30, y1: 6, y2: 6, stroke, "stroke-width": 3, "stroke-dasharray": DASHES[dash] ?? "" }));
  return drawing;
}

function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// One row at a time is in the tab order, with its controls.
export function reach(line, active) {
  for (const one of [line, ...line.querySelectorAll("[data-control]")]) one.setAttribute("tabindex", active ? "0" : "-1");
}

// Makes an element's children these, moving only what has to move: what has the focus and stays is not touched.
export function arrange(parent, children) {
  const stay = new Set(children);
  for (const child of [...parent.children]) if (!stay.has(child)) child.remove();
  children.forEach((child, place) => {
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
  });
}

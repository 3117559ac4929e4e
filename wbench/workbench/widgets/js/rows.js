// What a table does with its rows: read a filter, choose, sort, write a value. No page here.
const OWN = [
  { key: "name", title: "name", kind: "text" },
  { key: "note", title: "note", kind: "text" },
  { key: "n", title: "seeds", kind: "number" },
];
const TESTS = {
  ">=": (a, b) => a >= b, "<=": (a, b) => a <= b, "!=": (a, b) => a !== b, ">": (a, b) => a > b, "<": (a, b) => a < b, "=": (a, b) => a === b,
};

const EQUALITY = new Set(["=", "!="]);

export const allColumns = (columns) => [...OWN, ...columns];

export function written(value, { kind, digits = 4 }) {
  if (value === null || value === undefined || value === "") return "";
  if (kind === "time") return new Date(value * 1000).toLocaleString("sv").slice(0, 16);
  if (kind !== "number" || typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e7) return String(value);
  const size = Math.abs(value);
  return size && (size < 1e-4 || size >= 1e7) ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
}

const bare = (text) => text.toLowerCase().replaceAll(" ", "");

// "rank>4 method:galore word" as a function of a row, or an error that says what is allowed.
export function filterOf(text, columns) {
  const all = allColumns(columns);
  const tests = text.trim().split(/\s+/).filter(Boolean).map((word) => testOf(word, all));
  return (row) => tests.every((test) => test(row));
}

function testOf(word, columns) {
  const [, name, sign, value] = word.match(/^([^<>=!:]+)(>=|<=|!=|[<>=:])(.*)$/) ?? [];
  if (!name) return (row) => columns.some((column) => written(row[column.key], column).toLowerCase().includes(word.toLowerCase()));
  const column = columns.find(({ key, title }) => [bare(key), bare(title)].includes(bare(name)));
  if (!column) throw new Error(`No column “${name}”. Columns: ${columns.map(({ title }) => title.replaceAll(" ", "")).join(", ")}.`);
  if (sign === ":") return (row) => written(row[column.key], column).toLowerCase().includes(value.toLowerCase());
  const number = value.trim() === "" ? NaN : Number(value);
  if (column.kind === "time") return timeTest(column, sign, value);
  if (Number.isNaN(number) && !EQUALITY.has(sign)) throw new Error(`${word}: after ${sign} stands a number.`);
  return (row) => {
    const held = row[column.key];
    if (typeof held === "number") return TESTS[sign](held, number);
    return EQUALITY.has(sign) && TESTS[sign](String(held ?? "").toLowerCase(), value.toLowerCase());
  };
}

function timeTest(column, sign, value) {
  // as text, a date sorts like its time: made>2026-11
  return (row) => row[column.key] != null && TESTS[sign](written(row[column.key], column).slice(0, value.length), value);
}

// Pinned first, then by column; what is missing comes last both ways.
export function sorted(rows, { key, down }) {
  const compare = (one, other) => {
    const pinned = Boolean(other.pinned) - Boolean(one.pinned);
    if (pinned || !key) return pinned;
    const [a, b] = [one[key] ?? "", other[key] ?? ""];
    if (a === "" || b === "") return (a === "") - (b === "");
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
    return down ? -order : order;
  };
  return [...rows].sort(compare);
}

import { element, onceAFrame, OWN_KEYS } from "./elements.js";
import { arrange, button, headerOf, lineOf, reach, widthOf } from "./line.js";
import { allColumns, filterOf, sorted } from "./rows.js";
import { storeOf } from "./store.js";
import { themeOf, watchTheme } from "./theme.js";

const ROW = 30; // pixels, as in the style sheet
const SPARE = 8; // rows drawn beyond the window
const UNDO_SECONDS = 8;
const [TICK, LINE, NAME, ACTIONS] = [36, 46, 220, 88]; // widths of columns

class Table {
  constructor(model, store, el) {
    Object.assign(this, { model, store, order: { key: "", down: false }, active: null, place: 0, drawn: new Map(), shown: [] });
    this.filter = element("input", {
      type: "search", className: "wbench-table-filter", placeholder: "filter: text, column:text, column>value",
      attributes: { "aria-label": "Filter rows", ...OWN_KEYS }, oninput: () => this.refilter(),
    });
    this.status = element("span", { className: "wbench-table-status", attributes: { role: "status" } });
    this.full = element("span", { className: "wbench-table-full", attributes: { "aria-hidden": "true" } });
    this.clear = button("untick all", "Untick all rows", () => this.select([]));
    this.undo = element("span", { className: "wbench-table-undo", hidden: true, attributes: { role: "status" } });
    this.columns = element("colgroup");
    this.head = element("tr", { attributes: { "aria-rowindex": "1" } });
    this.body = element("tbody", { onkeydown: (event) => this.key(event) });
    this.spaces = [0, 1].map(() => element("tr", { className: "wbench-table-space", attributes: { "aria-hidden": "true" } }, [element("td")]));
    this.table = element("table", {}, [this.columns, element("thead", {}, [this.head]), this.body]);
    this.scroller = element("div", { className: "wbench-table-scroll", onscroll: () => this.scrolled() }, [this.table]);
    const bar = element("div", { className: "wbench-table-bar" }, [this.filter, this.status, this.clear]);
    const foot = element("div", { className: "wbench-table-foot" }, [this.full, this.undo]);
    this.root = element("div", { className: "wbench-table" }, [bar, this.scroller, foot]);
    el.append(this.root);
    this.keep = () => true;
    this.schedule = onceAFrame(() => this.draw());
    this.rearrange = onceAFrame(() => this.arrange());
    this.watch();
    this.relabel();
    this.offerUndo();
  }

  watch() {
    const events = {
      "change:columns change:name change:height": () => this.relabel(),
      "change:selected": () => this.schedule(),
      "change:undoable": () => this.offerUndo(),
    };
    for (const [names, action] of Object.entries(events)) this.model.on(names, action);
    const sizes = new ResizeObserver(() => this.schedule());
    sizes.observe(this.scroller);
    const stopTheme = watchTheme(() => themeOf(this.root) !== this.theme && this.redraw());
    this.store.watchers.add(this.rearrange);
    this.disposers = [
      () => Object.entries(events).forEach(([names, action]) => this.model.off(names, action)),
      () => sizes.disconnect(),
      stopTheme,
      () => this.store.watchers.delete(this.rearrange),
    ];
  }

  dispose() {
    this.disposers.forEach((dispose) => dispose());
    this.rearrange.cancel();
    this.schedule.cancel();
    clearTimeout(this.undoTimer);
    this.root.remove();
  }

  relabel() {
    this.all = allColumns(this.model.get("columns"));
    if (!this.all.some(({ key }) => key === this.order.key)) this.order = { key: "", down: false };
    this.table.setAttribute("aria-label", this.model.get("name"));
    this.scroller.style.maxHeight = `${this.model.get("height")}px`;
    const widths = [TICK, LINE, ...this.all.map(widthOf), ACTIONS]; // the name's, 0, takes what is left
    const style = (width) => (width ? `width:${width}px` : "");
    this.columns.replaceChildren(...widths.map((width) => element("col", { attributes: { style: style(width) } })));
    this.table.style.minWidth = `${widths.reduce((sum, width) => sum + width, NAME)}px`;
    this.refilter();
  }

  drawHead() {
    const blank = (label, className = "") => element("th", { className, attributes: { scope: "col", "aria-label": label } });
    const headers = this.all.map((column) => headerOf(column, this.order, (key) => this.sort(key)));
    this.head.replaceChildren(blank("overlaid"), blank("line"), ...headers, blank("actions", "wbench-table-actions"));
  }

  sort(key) {
    const again = this.order.key === key;
    this.order = again && this.order.down ? { key: "", down: false } : { key, down: again }; // up, down, as given
    this.redraw();
    this.head.querySelector(`[data-key="${CSS.escape(key)}"] button`)?.focus();
  }

  refilter() {
    try {
      this.keep = filterOf(this.filter.value, this.model.get("columns"));
      this.wrong = "";
    } catch (error) {
      this.wrong = error.message; // the last filter that could be read stays
    }
    this.redraw();
  }

  redraw() {
    this.drawn.clear();
    this.drawHead();
    this.arrange();
  }

  arrange() {
    this.shown = sorted([...this.store.rows.values()].filter(this.keep), this.order);
    this.table.setAttribute("aria-rowcount", this.shown.length + 1);
    this.draw();
  }

  // The rows in view. A row that has not changed keeps its elements; while a field is edited nothing moves under it.
  draw() {
    if (this.editing) return;
    const height = this.scroller.clientHeight || this.model.get("height");
    const from = Math.min(Math.max(0, Math.floor(this.scroller.scrollTop / ROW) - SPARE), this.shown.length);
    const until = Math.min(this.shown.length, from + Math.ceil(height / ROW) + 2 * SPARE);
    const ticked = new Set(this.model.get("selected"));
    this.theme = themeOf(this.root);
    const place = this.shown.findIndex(({ key }) => key === this.active);
    if (place >= 0) this.place = place;
    else this.active = this.shown[Math.min(this.place, this.shown.length - 1)]?.key; // its neighbour, where it is gone
    const focused = this.body.contains(document.activeElement) ? document.activeElement : null;
    const drawn = new Map();
    for (const [place, row] of this.shown.slice(from, until).entries()) {
      const line = this.line(row, ticked.has(row.key));
      line.element.setAttribute("aria-rowindex", from + place + 2);
      drawn.set(row.key, line);
    }
    this.drawn = drawn;
    this.space(0, from);
    this.space(1, this.shown.length - until);
    arrange(this.body, [this.spaces[0], ...[...drawn.values()].map((line) => line.element), this.spaces[1]]);
    this.refocus(focused);
    this.tell(ticked.size);
  }

  line(row, ticked) {
    const active = row.key === this.active;
    const old = this.drawn.get(row.key);
    if (old && old.row === row && old.ticked === ticked) {
      if (old.active !== active) reach(old.element, active);
      return Object.assign(old, { active });
    }
    const settings = { columns: this.all, ticked, reach: active ? "0" : "-1", theme: this.theme, on: this };
    return { row, ticked, active, element: lineOf(row, settings) };
  }

  space(which, rows) {
    this.spaces[which].hidden = !rows;
    this.spaces[which].firstChild.style.height = `${rows * ROW}px`;
  }

  // A row that was drawn anew gets the focus back, on the same control; of one that is gone, its neighbour.
  refocus(focused) {
    if (!focused || focused === document.activeElement) return;
    const line = (this.drawn.get(focused.closest("tr")?.dataset.key) ?? this.drawn.get(this.active))?.element;
    (line?.querySelector(`[data-control="${focused.dataset.control}"]`) ?? line)?.focus({ preventScroll: true });
  }

  tell(ticked) {
    const [all, here] = [this.store.rows.size, this.shown.length];
    const text = this.wrong || `${all === here ? all : `${here} of ${all}`} rows, ${ticked} overlaid`;
    if (this.status.textContent !== text) this.status.textContent = text;
    this.clear.hidden = !ticked;
  }

  scrolled() {
    this.editing?.blur();
    this.schedule();
  }

  activate(key) {
    this.full.textContent = this.store.rows.get(key)?.name ?? ""; // where the column cuts it off
    if (this.active === key) return;
    this.active = key;
    this.schedule();
  }

  toggle(key) {
    const selected = this.model.get("selected");
    this.select(selected.includes(key) ? selected.filter((one) => one !== key) : [...selected, key]);
  }

  select(keys) {
    this.model.set("selected", keys);
    this.model.save_changes();
    this.schedule();
  }

  edit(key, field, value) {
    this.store.merge([{ key, [field]: value }]);
    this.model.send({ kind: "edit", key, field, value });
  }

  remove(key) {
    this.model.send({ kind: "delete", keys: [key] });
  }

  // A text field in the place of a name or a note: Enter keeps, Escape drops, Tab goes from name to note.
  open(key, field) {
    const line = this.drawn.get(key)?.element;
    const cell = line?.querySelector(`td[data-field="${field}"]`);
    if (!cell || this.editing) return;
    const { [field]: before = "", name } = this.store.rows.get(key);
    const input = element("input", { type: "text", value: before, attributes: { "aria-label": `${field} of ${name}`, ...OWN_KEYS } });
    const close = (keep) => {
      if (this.editing !== input) return;
      this.editing = null;
      this.drawn.delete(key);
      const value = input.value.trim();
      if (keep && value !== before && (value || field === "note")) this.edit(key, field, value);
      this.arrange();
    };
    input.onblur = () => close(true);
    input.onkeydown = (event) => {
      event.stopPropagation();
      const next = event.key === "Tab" && !event.shiftKey && field === "name";
      if (!next && event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      close(event.key !== "Escape");
      if (next) this.open(key, "note");
      else this.drawn.get(key)?.element.focus({ preventScroll: true });
    };
    this.editing = input;
    cell.replaceChildren(input);
    input.focus({ preventScroll: true });
    input.select();
  }

  key(event) {
    const row = event.target.closest("tr");
    const place = this.shown.findIndex(({ key }) => key === row.dataset.key);
    const last = this.shown.length - 1;
    const to = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: last, PageDown: place + 10, PageUp: place - 10 }[event.key];
    if (place >= 0 && to !== undefined) this.move(Math.max(0, Math.min(last, to)));
    else if (event.key === "F2") this.open(row.dataset.key, "name");
    else if (event.key === " " && event.target === row) this.toggle(row.dataset.key);
    else return;
    event.preventDefault();
  }

  move(place) {
    const top = place * ROW;
    const room = this.scroller.clientHeight - 2 * ROW; // less the header, which stands over the first row
    if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
    if (top > this.scroller.scrollTop + room) this.scroller.scrollTop = top - room;
    this.active = this.shown[place].key;
    this.draw();
    this.drawn.get(this.active)?.element.focus({ preventScroll: true });
  }

  offerUndo() {
    const count = this.model.get("undoable").length;
    this.undo.hidden = !count;
    if (!count) return;
    const undo = button("Undo", "Undo the deletion", () => this.model.send({ kind: "undo" }));
    this.undo.replaceChildren(count === 1 ? "1 row deleted " : `${count} rows deleted `, undo);
    this.hideUndoSoon();
  }

  hideUndoSoon() {
    clearTimeout(this.undoTimer);
    this.undoTimer = setTimeout(() => {
      // not from under the finger
      if (this.undo.matches(":hover, :focus-within")) this.hideUndoSoon();
      else this.undo.hidden = true;
    }, UNDO_SECONDS * 1000);
  }
}

export default () => {
  let store;
  return {
    initialize({ model }) {
      store = storeOf(model);
      const replace = () => store.replace(model.get("rows"));
      const merge = (message) => message.kind === "rows" && store.merge(message.rows);
      model.on("change:rows", replace);
      model.on("msg:custom", merge);
      return () => {
        model.off("change:rows", replace);
        model.off("msg:custom", merge);
      };
    },
    render({ model, el }) {
      const table = new Table(model, store, el);
      return () => table.dispose();
    },
  };
};

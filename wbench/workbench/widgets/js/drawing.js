import { element } from "./elements.js";

const MANY = 8; // drawings of a panel
const LONG = 200_000; // characters of a figure that is too large to be kept
const LIGHT = new Set(["scatter", "bar", "heatmap", "contour"]); // the others hold a WebGL context, of which a page has few, or state of their own

// Whether a figure's drawing may wait, off the page, until the figure comes back.
const canWait = (figure, text) =>
  text.length <= LONG && !figure.frames?.length && figure.data.every(({ type }) => LIGHT.has(type ?? "scatter"));

// A figure as plotly.js drew it. `heard` maps events of plotly.js to what is done.
class Drawing {
  constructor(heard) {
    Object.assign(this, { heard, text: "", light: false, stays: false });
    this.graph = element("div", { className: "wbench-view-graph", attributes: { role: "img" } });
  }

  get drawn() {
    return Boolean(this.graph.data);
  }

  async draw(library, text, figure, config) {
    Object.assign(this, { library, text: "", light: canWait(figure, text) });
    if (this.config !== config) figure.config = config; // one that is given again is taken in again, for some milliseconds
    this.config = config;
    await library.react(this.graph, figure);
    this.text = text;
    if (this.listening) return;
    this.listening = true;
    for (const [event, action] of Object.entries(this.heard)) this.graph.on(event, action);
  }

  // The page has another width.
  async fit(width) {
    [this.fitting, this.text] = [true, ""];
    await this.library.relayout(this.graph, { width, autosize: false }).catch(() => {}); // gone meanwhile
    this.fitting = false;
  }

  // Off the page the mouse does not leave it: what it pointed at would still be labelled when it comes back.
  rest() {
    this.library.Fx.unhover(this.graph);
  }

  purge() {
    if (this.drawn) this.library.purge(this.graph);
    this.graph.classList.remove("js-plotly-plot");
    Object.assign(this, { text: "", stays: false, listening: false, config: undefined });
  }
}

// The drawings of a panel: the one that is seen, and some that may come back, which is twenty times as fast as drawing them again.
export class Drawings {
  constructor(heard) {
    this.heard = heard;
    this.waiting = new Map(); // figure as text → drawing; the longest unseen first
    this.seen = new Drawing(heard);
  }

  // Whether this figure is seen now, drawn before; `stays` says that it is to be kept when another takes its place.
  back(text, stays) {
    const found = this.seen.text === text ? this.seen : this.waiting.get(text);
    if (!found) return false;
    this.waiting.delete(text);
    this.put(found, stays);
    return true;
  }

  // Draws a figure that was not drawn before: off the page, where the one that is seen is to be kept.
  async draw(library, text, figure, config, stays) {
    const drawing = this.seen.stays ? this.spare() : this.seen;
    await drawing.draw(library, text, figure, config);
    this.put(drawing, stays);
  }

  spare() {
    const [oldest] = this.waiting.size + 1 < MANY ? [] : this.waiting;
    if (!oldest) return new Drawing(this.heard);
    this.waiting.delete(oldest[0]);
    return oldest[1];
  }

  // Nothing is to be seen.
  clear() {
    if (this.seen.stays) this.put(new Drawing(this.heard), false);
    else this.seen.purge();
  }

  put(drawing, stays) {
    const before = this.seen;
    this.seen = drawing;
    drawing.stays = stays && drawing.light;
    if (before === drawing) return;
    before.graph.replaceWith(drawing.graph);
    if (!before.stays) before.purge();
    else {
      before.rest();
      this.waiting.set(before.text, before);
    }
  }

  // What is seen is not what was sent any more, as the user has changed it, or has to be drawn otherwise: nothing is as it was.
  forget() {
    for (const drawing of this.waiting.values()) drawing.purge();
    this.waiting.clear();
    Object.assign(this.seen, { text: "", stays: false });
  }

  purge() {
    this.forget();
    this.seen.purge();
  }
}

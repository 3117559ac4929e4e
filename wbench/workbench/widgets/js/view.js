import { Drawings } from "./drawing.js";
import { element, onceAFrame, soon } from "./elements.js";
import { picture } from "./picture.js";
import { plotlyReady } from "./plotly.js";
import { fileName, save } from "./save.js";
import { recoloured, themeOf, watchTheme } from "./theme.js";

const PATIENCE = 30_000;

class Panel {
  constructor(model, el) {
    Object.assign(this, { model, drawing: false, stale: true, onScreen: false, asked: 0 });
    this.heading = element("h3");
    this.caption = element("p", { className: "wbench-view-caption" });
    this.csvButton = this.button("CSV", "the numbers", () => this.askCsv());
    this.buttons = [
      this.button("PNG", "as an image", () => this.savePicture("png")),
      this.button("SVG", "as a drawing", () => this.savePicture("svg")),
      this.csvButton,
    ];
    this.problem = element("p", { className: "wbench-view-problem", hidden: true, attributes: { role: "alert" } });
    this.drawings = new Drawings(this.heard());
    this.lines = element("div", { className: "wbench-view-lines", attributes: { "aria-hidden": "true" } });
    this.frame = element("div", { className: "wbench-view-frame" }, [this.graph, this.lines]);
    const tools = element("span", { className: "wbench-view-tools" }, this.buttons);
    this.root = element("section", { className: "wbench-view" }, [
      element("header", {}, [this.heading, tools]), this.caption, this.problem, this.frame,
    ]);
    el.append(this.root);
    this.schedule = soon(() => this.draw());
    this.fit = onceAFrame(() => this.resize());
    this.watch();
    this.label();
  }

  button(text, what, onclick) {
    return element("button", { textContent: text, type: "button", onclick, title: `Save ${what}` });
  }

  watch() {
    const listen = (events, action) => {
      this.model.on(events, action);
      return () => this.model.off(events, action);
    };
    const sizes = new ResizeObserver(([{ contentRect }]) => {
      this.room = Math.floor(contentRect.width); // asking for it while drawing would lay out the page once a figure
      this.fit();
    });
    sizes.observe(this.frame);
    this.disposers = [
      listen("change:name change:caption change:has_csv", () => this.label()),
      listen("change:figure change:revision change:height change:config change:stays", () => this.refresh()),
      listen("change:cursor", () => this.placeCursor()),
      listen("msg:custom", (message) => this.receive(message)),
      watchTheme(() => {
        if (themeOf(this.root) !== this.theme) this.refresh();
      }),
      () => sizes.disconnect(),
    ];
  }

  label() {
    const [name, caption] = [this.model.get("name"), this.model.get("caption")];
    this.heading.textContent = name;
    this.caption.textContent = caption;
    this.csvButton.hidden = !this.model.get("has_csv");
    for (const button of this.buttons) button.setAttribute("aria-label", `${name}: save as ${button.textContent}`);
    this.nameGraph();
  }

  nameGraph() {
    const said = ["name", "caption"].map((part) => this.model.get(part));
    this.graph.setAttribute("aria-label", said.filter(Boolean).join(". "));
  }

  see(onScreen) {
    this.onScreen = onScreen;
    if (onScreen && this.stale) this.schedule();
  }

  refresh() {
    this.stale = true;
    if (this.onScreen) this.schedule();
  }

  // One drawing at a time; what came meanwhile is drawn after it, and only the newest.
  async draw() {
    if (this.drawing || this.gone || !this.stale) return;
    [this.drawing, this.stale] = [true, false];
    try {
      await this.drawNewest();
      this.nameGraph();
      this.placeCursor();
      this.say("");
      this.root.dispatchEvent(new Event("wbench-drawn", { bubbles: true }));
    } catch (error) {
      this.say(`This picture could not be drawn: ${error?.message ?? error}`);
    }
    this.drawing = false;
    if (this.gone) this.drawings.purge();
    else if (this.stale && this.onScreen) this.schedule();
  }

  async drawNewest() {
    const waiting = setTimeout(() => this.say("plotly.js is not on this page: show a PlotlyLibrary beside this view."), PATIENCE);
    const library = await plotlyReady();
    clearTimeout(waiting);
    const text = this.model.get("figure");
    this.library = library;
    this.theme = themeOf(this.root);
    if (this.gone) return;
    for (const button of this.buttons) button.disabled = !text;
    this.frame.style.minHeight = `${this.model.get("height") || (text ? 0 : 200)}px`;
    if (!text) {
      this.drawings.clear();
      return;
    }
    this.width = this.room || this.frame.offsetWidth;
    const [height, revision, config] = ["height", "revision", "config"].map((name) => this.model.get(name));
    this.seeAs(`${this.theme} ${this.width} ${height} ${JSON.stringify(config)}`, revision);
    const stays = this.model.get("stays") && !this.changed;
    if (!this.drawings.back(text, stays)) {
      const figure = recoloured(JSON.parse(text), this.theme);
      const uirevision = revision || figure.layout.uirevision || "kept";
      Object.assign(figure.layout, { autosize: !this.width, width: this.width || undefined, uirevision });
      if (height) figure.layout.height = height;
      await this.drawings.draw(library, text, figure, config, stays);
    }
  }

  // Drawings of another theme or size are of no use; what the user has changed in one holds for all that come, up to the next revision.
  seeAs(look, revision) {
    if (look !== this.look || revision !== this.revision) this.drawings.forget();
    if (revision !== this.revision) this.changed = false;
    Object.assign(this, { look, revision });
  }

  say(text) {
    this.problem.textContent = text;
    this.problem.hidden = !text;
  }

  heard() {
    const changes = () => {
      if (this.drawings.seen.fitting) return;
      this.changed = true;
      this.drawings.forget();
    };
    return {
      plotly_afterplot: () => this.placeCursor(),
      plotly_relayouting: () => this.placeCursor(),
      plotly_relayout: changes,
      plotly_restyle: ([change]) => {
        changes();
        if (Object.keys(change).some((key) => key.includes("constraintrange"))) this.select(this.ranges());
      },
      plotly_click: ({ points }) => this.pick(points),
      plotly_selected: (event) => this.select((event?.points ?? []).map(({ customdata }) => plain(customdata))),
      plotly_deselect: () => this.select([]),
    };
  }

  get graph() {
    return this.drawings.seen.graph;
  }

  get stepAxes() {
    return this.graph.layout?.meta?.step_axes ?? [];
  }

  pick(points) {
    const point = points.find(({ xaxis, x }) => this.stepAxes.includes(xaxis?._id) && Number.isFinite(x));
    if (point) this.model.send({ kind: "pick", x: point.x });
    else if (points[0]?.customdata !== undefined) this.select([plain(points[0].customdata)]);
  }

  select(selection) {
    this.model.send({ kind: "select", selection });
  }

  // Of parallel coordinates: each brushed axis with its ranges.
  ranges() {
    const found = {};
    for (const { label, constraintrange } of this.graph.data.flatMap((trace) => trace.dimensions ?? [])) {
      if (constraintrange?.length) found[label] = Array.isArray(constraintrange[0]) ? constraintrange : [constraintrange];
    }
    return found;
  }

  placeCursor() {
    const x = this.model.get("cursor");
    const lines = [];
    for (const { xaxis, yaxis } of Object.values(this.graph._fullLayout?._plots ?? {})) {
      const place = x === null || !this.stepAxes.includes(xaxis._id) ? NaN : xaxis.d2p(x);
      if (!(place >= 0 && place <= xaxis._length)) continue;
      const style = `left:${xaxis._offset + place}px;top:${yaxis._offset}px;height:${yaxis._length}px`;
      lines.push(element("div", { attributes: { style } }));
    }
    this.lines.replaceChildren(...lines);
  }

  resize() {
    if (!this.drawings.seen.drawn || !this.room || this.room === this.width || this.drawing) return;
    this.width = this.room;
    this.drawings.seen.fit(this.width);
  }

  async savePicture(format) {
    try {
      const data = await this.picture({ format, imageDataOnly: true, scale: format === "png" ? 2 : 1 });
      const bytes = format === "png" ? Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)) : data;
      save(`${fileName(this.model.get("name"))}.${format}`, bytes, format === "png" ? "image/png" : "image/svg+xml");
    } catch (error) {
      this.say(`The ${format.toUpperCase()} could not be made: ${error?.message ?? error}`);
    }
  }

  picture(options) {
    return picture(this.library, this.model.get("figure"), this.graph, options);
  }

  askCsv() {
    this.asked = Math.random();
    this.model.send({ kind: "csv", asked: this.asked });
  }

  receive(message) {
    if (message.asked !== this.asked || message.kind !== "csv") return;
    if (message.problem) this.say(message.problem);
    else save(`${fileName(this.model.get("name"))}.csv`, message.text, "text/csv");
  }

  dispose() {
    this.gone = true;
    this.schedule.cancel();
    this.fit.cancel();
    this.disposers.forEach((dispose) => dispose());
    if (!this.drawing) this.drawings.purge();
    this.root.remove();
  }
}

// Typed arrays and numbers as JSON knows them.
const plain = (value) => (ArrayBuffer.isView(value) ? Array.from(value) : value ?? null);

const pageIdle = () => new Promise((resolve) => (globalThis.requestIdleCallback ?? setTimeout)(resolve));

export default () => {
  const panels = new Set(); // one for each place where this widget is shown

  function tellVisible(model) {
    const visible = [...panels].some(({ onScreen }) => onScreen);
    if (model.get("visible") === visible) return;
    model.set("visible", visible);
    model.save_changes();
  }

  async function snapshot(model, { scale }) {
    if (!model.get("figure")) return;
    await pageIdle(); // a picture takes a good part of a second: whatever the user does goes first
    const [panel] = panels;
    const made = picture(await plotlyReady(), model.get("figure"), panel?.graph, { format: "png", scale });
    const image = await made.catch((error) => `${error?.message ?? error}`); // the kernel waits for one word of each panel
    model.set("png", image);
    model.save_changes();
  }

  return {
    initialize({ model }) {
      const answer = (message) => message.kind === "snapshot" && snapshot(model, message);
      model.on("msg:custom", answer);
      return () => model.off("msg:custom", answer);
    },
    render({ model, el }) {
      const panel = new Panel(model, el);
      panels.add(panel);
      const screen = new IntersectionObserver((entries) => {
        panel.see(entries.at(-1).isIntersecting);
        tellVisible(model);
      }, { rootMargin: "100px" });
      screen.observe(panel.frame);
      return () => {
        screen.disconnect();
        panels.delete(panel);
        panel.dispose();
        panel.onScreen = false;
        tellVisible(model);
      };
    },
  };
};

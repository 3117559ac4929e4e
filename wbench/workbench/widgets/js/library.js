import { meeting } from "./plotly.js";

// A module of its own, read once the widgets of the page are up: the browser needs seconds for 5 MB, and anywidget gives up on
// every widget of the page that is not ready within two.
async function load(source) {
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  try {
    const { default: evaluate } = await import(/* webpackIgnore: true */ url);
    const before = globalThis.Plotly;
    const module = { exports: {} };
    evaluate(module, module.exports);
    if (before === undefined) delete globalThis.Plotly;
    else globalThis.Plotly = before;
    return module.exports;
  } finally {
    URL.revokeObjectURL(url);
  }
}

export default {
  initialize({ model }) {
    const place = meeting();
    if (place.library || place.loading) return;
    place.loading = true;
    setTimeout(async () => place.give(await load(model.get("source"))), 0);
  },
  render() {},
};

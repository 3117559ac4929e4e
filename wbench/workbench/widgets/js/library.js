import { meeting } from "./plotly.js";

async function load(source) {
  // the parameters hide the names by which plotly.js would hand itself to RequireJS or CommonJS instead of to us
  const text = `export default function (module, exports, define, require) {\n${source}\n}`;
  const address = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  const { default: evaluate } = await import(address);
  URL.revokeObjectURL(address);
  const before = globalThis.Plotly;
  const module = { exports: {} };
  evaluate(module, module.exports);
  if (before === undefined) delete globalThis.Plotly;
  else globalThis.Plotly = before;
  return module.exports;
}

// anywidget gives a widget two seconds to start and is deaf to it afterwards, so 5 MB are read later: when the page has time, or a view
// wants to draw.
const whenIdle = globalThis.requestIdleCallback ?? setTimeout;

export default {
  initialize({ model }) {
    meeting().bring(() => load(model.get("source")));
    whenIdle(() => meeting().ready());
  },
  render() {},
};

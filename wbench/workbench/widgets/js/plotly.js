// Where the library and the views meet: each widget's source is a module of its own, so they share a name on the page.
const PLACE = Symbol.for("wbench.plotly");

export function meeting() {
  if (!globalThis[PLACE]) {
    const place = {};
    const brought = new Promise((resolve) => (place.bring = resolve)); // the first that is brought stays
    place.ready = () => (place.library ??= brought.then((load) => load()));
    globalThis[PLACE] = place;
  }
  return globalThis[PLACE];
}

export const plotlyReady = () => meeting().ready();

// Where the library and the views meet: each widget's source is a module of its own, so they share a name on the page.
const PLACE = Symbol.for("wbench.plotly");

export function meeting() {
  if (!globalThis[PLACE]) {
    const place = {};
    place.ready = new Promise((resolve) => {
      place.give = (library) => {
        place.library ??= library;
        resolve(place.library);
      };
    });
    globalThis[PLACE] = place;
  }
  return globalThis[PLACE];
}

export const plotlyReady = () => meeting().ready;

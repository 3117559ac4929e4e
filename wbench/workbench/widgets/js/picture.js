import colours from "./colours.json" with { type: "json" };
import { recoloured } from "./theme.js";

// A figure as it stands on screen (zoom, hidden lines, step), in print: light, on white.
export async function picture(library, text, drawn, options) {
  const figure = recoloured(JSON.parse(text), "light", colours.light.paper);
  if (drawn?.layout) asSeen(figure, drawn);
  const width = drawn?.offsetWidth || 900;
  const height = drawn?.offsetHeight || figure.layout.height || 420;
  return library.toImage({ ...figure, config: { staticPlot: true } }, { width, height, ...options });
}

function asSeen(figure, drawn) {
  const active = drawn.layout.sliders?.[0]?.active;
  const step = figure.layout.sliders?.[0]?.steps?.[active]?.args?.[0]?.[0];
  const frame = figure.frames?.find(({ name }) => name === step);
  if (frame) {
    frame.data.forEach((change, place) => Object.assign(figure.data[place], change));
    figure.layout.sliders[0].active = active;
  }
  figure.data.forEach((trace, place) => {
    if (drawn.data[place]?.visible !== undefined) trace.visible = drawn.data[place].visible;
  });
  for (const [key, axis] of Object.entries(drawn.layout)) {
    if (!/^[xy]axis\d*$/.test(key) || !axis.range) continue;
    figure.layout[key] = { ...figure.layout[key], type: axis.type, range: [...axis.range], autorange: false };
  }
}

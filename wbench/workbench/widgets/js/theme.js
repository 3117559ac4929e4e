import colours from "./colours.json" with { type: "json" };

const COLOUR_KEY = /color$/;
const KEPT = new Set(["colorscale", "coloraxis", "meta"]);

// "light" or "dark": what JupyterLab says, else what is behind the element.
export function themeOf(element) {
  const told = document.body.dataset.jpThemeLight;
  if (told) return told === "true" ? "light" : "dark";
  for (let node = element; node; node = node.parentElement) {
    const { r, g, b, a } = parsed(getComputedStyle(node).backgroundColor);
    if (a > 0.5) return luminance(r, g, b) < 0.4 ? "dark" : "light";
  }
  const allowed = getComputedStyle(document.documentElement).colorScheme.includes("dark");
  return allowed && matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

export function watchTheme(callback) {
  const observer = new MutationObserver(callback);
  observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class", "style"] });
  const preference = matchMedia("(prefers-color-scheme: dark)");
  preference.addEventListener("change", callback);
  return () => {
    observer.disconnect();
    preference.removeEventListener("change", callback);
  };
}

const canvas = document.createElement("canvas").getContext("2d");

function parsed(colour) {
  canvas.fillStyle = "#000000";
  canvas.fillStyle = colour;
  const text = canvas.fillStyle; // "#rrggbb", or "rgba(...)" where it is transparent
  if (text.startsWith("#")) {
    const [r, g, b] = [1, 3, 5].map((place) => parseInt(text.slice(place, place + 2), 16));
    return { r, g, b, a: 1 };
  }
  const [r, g, b, a] = text.match(/[\d.]+/g).map(Number);
  return { r, g, b, a };
}

function luminance(...channels) {
  const [r, g, b] = channels.map((value) => (value / 255 <= 0.04045 ? value / 3294.6 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

export function contrast(one, other) {
  const [low, high] = [one, other].map((colour) => parsed(colour)).map(({ r, g, b }) => luminance(r, g, b)).sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

const hex = ({ r, g, b }) => `#${[r, g, b].map((value) => Math.round(value).toString(16).padStart(2, "0")).join("").toUpperCase()}`;

// Towards ink until it stands out 3 : 1.
function readable(colour, theme) {
  const { paper, ink } = colours[theme];
  const [from, to] = [parsed(colour), parsed(ink)];
  for (let share = 0; share < 1; share += 0.1) {
    const mixed = hex({ r: from.r + share * (to.r - from.r), g: from.g + share * (to.g - from.g), b: from.b + share * (to.b - from.b) });
    if (contrast(mixed, paper) >= 3) return mixed;
  }
  return ink;
}

const known = new Map();

// What to draw instead of a colour; `mark` says that it must stand out from the page (a line, a point, a letter).
export function colourFor(colour, theme, mark = false) {
  const key = `${theme} ${mark} ${colour}`;
  if (!known.has(key)) known.set(key, translated(colour, theme, mark));
  return known.get(key);
}

function translated(colour, theme, mark) {
  if (colour.startsWith("$")) return colour; // a reference inside plotly's own templates
  const { r, g, b, a } = parsed(colour);
  const own = hex({ r, g, b });
  const found = colours[theme].map[own];
  if (a < 1) {
    const to = parsed(found ?? own);
    return a === 0 ? colour : `rgba(${to.r},${to.g},${to.b},${a})`;
  }
  return found ?? (mark && own !== hex(parsed(colours[theme].paper)) ? readable(own, theme) : own);
}

const recolouredValue = (value, theme, mark) => {
  if (typeof value === "string") return colourFor(value, theme, mark);
  if (Array.isArray(value)) return value.map((one) => recolouredValue(one, theme, mark));
  return value; // numbers on a colour scale
};

function walk(node, theme, marks) {
  for (const [key, value] of Object.entries(node)) {
    if (COLOUR_KEY.test(key)) node[key] = recolouredValue(value, theme, marks && (key === "color" || key.endsWith(".color")));
    else if (Array.isArray(value) && value.length && typeof value[0] === "object") {
      if (!KEPT.has(key)) value.forEach((one) => one && typeof one === "object" && walk(one, theme, marks));
    } else if (value && typeof value === "object" && !KEPT.has(key) && value.bdata === undefined) walk(value, theme, marks);
  }
}

// A figure's colours for a theme; changes the figure, which is fresh from its text.
export function recoloured(figure, theme, paper = "rgba(0,0,0,0)") {
  const page = colours[theme];
  walk(figure.data, theme, true);
  walk(figure.frames ?? [], theme, true);
  walk(figure.layout, theme, false);
  const axis = {
    gridcolor: page.grid, linecolor: page.axis, tickcolor: page.axis, zerolinecolor: page.axis, zeroline: false,
    ticklabeloverflow: "allow", // else every label is measured to hide one that leaves the figure: a fifth of the time of a drawing
  };
  const box = { bgcolor: page.raised, bordercolor: page.axis };
  const scene = { xaxis: { ...axis }, yaxis: { ...axis }, zaxis: { ...axis } };
  figure.layout = {
    ...figure.layout,
    paper_bgcolor: paper,
    plot_bgcolor: "rgba(0,0,0,0)",
    hoverlabel: { ...figure.layout.hoverlabel, bgcolor: page.raised, bordercolor: page.axis, font: { color: page.ink } },
    template: {
      layout: {
        font: { color: page.ink },
        colorway: Object.values(page.map).slice(0, 6),
        xaxis: axis,
        yaxis: axis,
        scene,
        legend: { bgcolor: "rgba(0,0,0,0)", bordercolor: page.axis },
        annotationdefaults: { arrowcolor: page.muted },
        sliderdefaults: { ...box, activebgcolor: page.muted, tickcolor: page.axis },
        updatemenudefaults: box,
        shapedefaults: { line: { color: page.axis } },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: page.muted, activecolor: page.ink },
      },
    },
  };
  for (const menu of figure.layout.updatemenus ?? []) Object.assign(menu, box);
  return figure;
}

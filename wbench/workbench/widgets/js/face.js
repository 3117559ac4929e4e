import { element, onceAFrame, OWN_KEYS } from "./elements.js";
import { save } from "./save.js";
import { themeOf, watchTheme } from "./theme.js";

function tell(model, key, value) {
  if (model.get(key) === value) return;
  model.set(key, value);
  model.save_changes();
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text); // no permission, or a page without TLS
  }
}

function copyBySelection(text) {
  const focused = document.activeElement;
  const area = element("textarea", { value: text, readOnly: true, attributes: { style: "position:fixed;opacity:0" } });
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus?.({ preventScroll: true });
  return done;
}

const around = new WeakMap(); // handle to the name around it; it stays for as long as the handle is there

// One search for all: the page is large, and this runs whenever a slider has drawn itself anew.
function nameSliders(names) {
  for (const handle of document.querySelectorAll(".noUi-handle")) {
    const named = around.get(handle) ?? namedAround(handle, names);
    if (!named || !Object.hasOwn(names, named.name)) continue;
    around.set(handle, named);
    const { label, valuetext } = names[named.name];
    write(handle, "aria-label", label);
    for (const [attribute, value] of Object.entries(OWN_KEYS)) write(handle, attribute, value);
    write(handle, "aria-valuetext", [].concat(valuetext)[named.place]);
  }
}

function namedAround(handle, names) {
  for (let node = handle.parentElement; node; node = node.parentElement) {
    const name = [...node.classList].find((one) => Object.hasOwn(names, one));
    if (name) return { name, place: [...node.querySelectorAll(".noUi-handle")].indexOf(handle) };
  }
  return undefined;
}

function write(handle, attribute, text) {
  if (text !== undefined && text !== null && handle.getAttribute(attribute) !== text) handle.setAttribute(attribute, text);
}

export default {
  initialize({ model }) {
    const act = async (message) => {
      if (message.kind === "download") save(message.name, message.text, message.mime);
      else if (message.kind === "copy") tell(model, "copied", await copy(message.text));
    };
    model.on("msg:custom", act);
    return () => model.off("msg:custom", act);
  },

  render({ model, el }) {
    const root = element("div", { className: "wbench-face", attributes: { style: "width:100%" } });
    el.append(root);
    const look = () => tell(model, "theme", themeOf(root));
    const measure = () => root.offsetWidth && tell(model, "width", root.offsetWidth);
    const name = onceAFrame(() => nameSliders(model.get("names")));
    const showBusy = () => root.setAttribute("aria-busy", model.get("busy"));

    const stopTheme = watchTheme(look);
    const sizes = new ResizeObserver(() => {
      measure();
      look(); // it is on the page only now
    });
    sizes.observe(root);
    // the slider writes its own text at each move and each new drawing; pictures change thousands of nodes, and hold no slider
    const sliders = new MutationObserver((changes) => changes.some(({ target }) => !(target instanceof SVGElement)) && name());
    sliders.observe(document.body, { subtree: true, childList: true, attributeFilter: ["aria-valuetext"] });
    model.on("change:names", name);
    model.on("change:busy", showBusy);
    name();
    showBusy();
    return () => {
      stopTheme();
      sizes.disconnect();
      sliders.disconnect();
      name.cancel();
      model.off("change:names", name);
      model.off("change:busy", showBusy);
    };
  },
};

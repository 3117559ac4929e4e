import { element, onceAFrame, OWN_KEYS } from "./elements.js";

const number = new Intl.NumberFormat("en-US");

export default {
  render({ model, el }) {
    const range = element("input", { type: "range", min: 0, step: 1, attributes: { ...OWN_KEYS } });
    const said = element("output", { className: "wbench-step" });
    const name = element("span", { textContent: model.get("name"), attributes: { "aria-hidden": "true" } });
    el.classList.add("wbench-steps");
    el.append(name, range, said);

    const speak = () => {
      const step = model.get("steps")[Number(range.value)] ?? 0;
      said.textContent = number.format(step);
      range.setAttribute("aria-valuetext", said.textContent);
    };
    const draw = () => {
      const last = model.get("steps").length - 1;
      range.max = Math.max(last, 1);
      range.disabled = last < 1;
      range.value = Math.min(model.get("place"), Math.max(last, 0));
      range.title = model.get("hint");
      range.setAttribute("aria-label", model.get("hint"));
      speak();
    };
    const tell = onceAFrame(() => {
      model.set("place", Number(range.value));
      model.save_changes();
    });
    // only what the user does is told: a slider that tells what it was given, too, sends back what is out of date already
    range.addEventListener("input", () => {
      speak();
      tell();
    });
    model.on("change:steps change:place", draw);
    draw();
    return () => {
      tell.cancel();
      model.off("change:steps change:place", draw);
    };
  },
};

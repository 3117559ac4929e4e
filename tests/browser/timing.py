"""Times taken in the page itself, and the file that keeps them."""

import json
import os
import platform
import statistics
from pathlib import Path

from lab import ROOT

FILE = ROOT / "benchmarks" / "workbench.json"

WATCH = """
() => { window.wbenchDraws = (graphs) => {
  // from now on until each of the panels that these graphs stand in shows another picture
  window.wbenchDrawn = Promise.all(graphs.map((graph) => new Promise((resolve) =>
    graph.closest('section').addEventListener('wbench-drawn', resolve, { once: true }))));
}; window.wbenchTime = async ({ event, selector, done, seconds, drawn }) => {
  // from the event on an element that matches, until what was awaited is drawn and an expression is true, in milliseconds;
  // looked at in each frame only after the drawing, as a page that is asked in each frame has to make one
  const ready = new Function(`return ${done}`);
  const begun = new Promise((resolve) => {
    const heard = (e) => {
      if (!e.target.closest?.(selector)) return;
      document.removeEventListener(event, heard, true);
      resolve(performance.now());
    };
    document.addEventListener(event, heard, true);
  });
  const begin = await begun;
  if (drawn) await Promise.race([window.wbenchDrawn, new Promise((resolve) => setTimeout(resolve, seconds * 1000))]);
  return await new Promise((resolve, reject) => {
    const look = () => {
      let found = false;
      try { found = Boolean(ready()); } catch { found = false; }
      if (found) resolve(performance.now() - begin);
      else if (performance.now() - begin > seconds * 1000) reject(new Error(`not within ${seconds} s: ${done}`));
      else requestAnimationFrame(look);
    };
    look();
  });
}; }
"""


def timed(page, act, *, event, selector, done, seconds=30, graphs=""):
    """Return the milliseconds from an event that `act` causes until JavaScript is true and all `graphs` have been drawn anew."""
    if graphs:
        page.evaluate(f"window.wbenchDraws({graphs})")
    handle = page.evaluate_handle(
        "given => ({ promise: window.wbenchTime(given) })",
        {"event": event, "selector": selector, "done": done, "seconds": seconds, "drawn": bool(graphs)},
    )
    act()
    return float(page.evaluate("async handle => await handle.promise", handle))


def keep(name, values, goal, unit="ms"):
    """Write what was measured into the benchmark's file, where that is wanted; return the best of several."""
    best = min(values)
    if os.environ.get("WBENCH_KEEP_TIMES"):
        found = json.loads(FILE.read_text()) if FILE.exists() else {}
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        median, measured = round(statistics.median(values), 1), [round(value, 1) for value in values]
        found[name] = {"median": median, "best": round(best, 1), "all": measured, "goal": goal, "unit": unit}
        found["machine"], found["command"] = machine, "WBENCH_KEEP_TIMES=1 pytest tests/browser"
        Path(FILE).write_text(json.dumps(found, indent=1) + "\n")
    return best

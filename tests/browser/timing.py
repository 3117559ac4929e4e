"""Times taken in the page itself, and the file that keeps them."""

import json
import os
import platform
from pathlib import Path

from lab import ROOT

FILE = ROOT / "benchmarks" / "results" / "workbench.json"

WATCH = """
() => { window.wbenchTime = async ({ event, selector, done, seconds }) => {
  // from the event on an element that matches, until an expression is true: frame by frame, in milliseconds
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


def timed(page, act, *, event, selector, done, seconds=30):
    """Return the milliseconds from an event that `act` causes until JavaScript is true."""
    handle = page.evaluate_handle(
        "given => ({ promise: window.wbenchTime(given) })",
        {"event": event, "selector": selector, "done": done, "seconds": seconds},
    )
    act()
    return float(page.evaluate("async handle => await handle.promise", handle))


def keep(name, values, goal):
    """Write what was measured, best of several, into the benchmark's file, where that is wanted."""
    best = min(values)
    if os.environ.get("WBENCH_KEEP_TIMES"):
        found = json.loads(FILE.read_text()) if FILE.exists() else {}
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        found[name] = {"best": round(best, 1), "all": [round(value, 1) for value in values], "goal": goal, "unit": "ms"}
        found["machine"], found["command"] = machine, "WBENCH_KEEP_TIMES=1 pytest tests/browser/test_use.py"
        Path(FILE).write_text(json.dumps(found, indent=1) + "\n")
    return best

// An element with properties, attributes and children; text is always text.
export function element(tag, { attributes = {}, ...properties } = {}, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// JupyterLab takes single keys ("d d" deletes the cell, arrows go to another) from what has the focus, unless that says no.
export const OWN_KEYS = { "data-lm-suppress-shortcuts": "true" };

// Runs at most once a frame of the browser, however often it is asked for.
export function onceAFrame(action) {
  let asked = 0;
  const ask = () => {
    asked ||= requestAnimationFrame(() => {
      asked = 0;
      action();
    });
  };
  ask.cancel = () => {
    cancelAnimationFrame(asked);
    asked = 0;
  };
  return ask;
}

// Runs as soon as what is being done is done, once however often it is asked for; on a page that nobody sees, when it is seen again.
export function soon(action) {
  const { port1, port2 } = new MessageChannel();
  const later = onceAFrame(action);
  let asked = false;
  port1.onmessage = () => {
    if (!asked) return;
    asked = false;
    action();
  };
  const ask = () => {
    if (document.hidden) later();
    else if (!asked) {
      asked = true;
      port2.postMessage(null);
    }
  };
  ask.cancel = () => {
    later.cancel();
    asked = false;
    port1.close();
  };
  return ask;
}

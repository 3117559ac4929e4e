// The rows of one widget, for all places where it is shown.
export function storeOf(model) {
  const store = { rows: new Map(), watchers: new Set() };
  const changed = () => store.watchers.forEach((watcher) => watcher());
  store.replace = (rows) => {
    store.rows = new Map(rows.map((row) => [row.key, row]));
    changed();
  };
  store.merge = (parts) => {
    for (const part of parts) store.rows.set(part.key, { ...store.rows.get(part.key), ...part });
    changed();
  };
  store.replace(model.get("rows"));
  return store;
}

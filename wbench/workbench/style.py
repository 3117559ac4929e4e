"""How the workbench looks: variables of JupyterLab's theme, each with a value for pages without one."""

STYLE = """<style>
.wbench-workbench { color: var(--jp-ui-font-color1, #222); font-family: var(--jp-ui-font-family, system-ui, sans-serif); container-type: inline-size; }
.wbench-left { border-right: 1px solid var(--jp-border-color2, #ddd); padding-right: 12px; flex: 0 0 320px; }
.wbench-right { padding-left: 12px; }
.wbench-heading { margin: 6px 12px 2px 0; font-size: 14px; font-weight: 600; color: var(--jp-ui-font-color1, #222); }
.wbench-card { border: 1px solid var(--jp-border-color2, #ddd); border-radius: 4px; padding: 6px; margin: 4px 0; }
.wbench-card small, .wbench-said { color: var(--jp-ui-font-color2, #555); line-height: 1.35; }
.wbench-card a { color: var(--jp-content-link-color, #0060a8); }
.wbench-error { color: var(--jp-error-color0, #b00020); line-height: 1.4; white-space: normal; }
.wbench-status { min-height: 22px; }
.wbench-status .widget-html-content, .wbench-error .widget-html-content { white-space: normal; line-height: 1.4; }
.wbench-knob .widget-label { overflow: hidden; text-overflow: ellipsis; text-align: left; }
.wbench-knob .widget-hslider { margin-left: 2px; }
/* a layer of its own for each handle would make the browser sort all that is painted after them, in every frame */
.wbench-workbench :is(.noUi-handle, .noUi-origin, .noUi-connect, .noUi-connects) { will-change: auto; backface-visibility: visible; }
.wbench-legend { display: flex; flex-wrap: wrap; gap: 2px 18px; line-height: 1.5; }
.wbench-key { white-space: nowrap; max-width: 46ch; overflow: hidden; text-overflow: ellipsis; }
.wbench-swatch { display: inline-block; border-top-width: 3px; border-top-color: var(--light); width: 22px; vertical-align: middle; margin-right: 6px; }
[data-jp-theme-light="false"] .wbench-swatch { border-top-color: var(--dark); }
.wbench-area { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 8px; }
.wbench-area.wbench-one { grid-template-columns: minmax(0, 1fr); }
.wbench-view { min-width: 0; }
.wbench-whole { grid-column: 1 / -1; }
@container (max-width: 1250px) { .wbench-area { grid-template-columns: minmax(0, 1fr); } }
.wbench-tabs .widget-toggle-button { width: auto; }
.wbench-wide { overflow-x: auto; max-width: 100%; }
.wbench-grid { border-collapse: collapse; font-size: 13px; color: inherit; background: transparent; }
.wbench-grid caption { text-align: left; font-weight: 600; padding: 4px 0; }
.wbench-grid td, .wbench-grid th { padding: 3px 10px; text-align: left; border-bottom: 1px solid var(--jp-border-color2, #ddd); font-weight: normal; }
.wbench-grid tr { background: transparent !important; }
.wbench-code { background: var(--jp-layout-color2, #f4f4f4); color: var(--jp-content-font-color1, #222); padding: 10px; overflow-x: auto; line-height: 1.4; }
.wbench-badge { border: 2px solid; border-radius: 12px; padding: 2px 10px; font-weight: 600; }
.wbench-reproduced { border-color: #009E73; }
.wbench-not-reproduced { border-color: #D55E00; }
.wbench-inconclusive, .wbench-invalid { border-color: #888; }
</style>"""

"""The workbench: controls, live panel and comparison inside JupyterLab."""

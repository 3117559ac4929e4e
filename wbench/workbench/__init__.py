"""The workbench: a panel in a notebook."""

"""Methods that rewrite gradient, state or step."""

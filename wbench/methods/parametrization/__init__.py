"""Methods that rewrite a weight on every forward."""

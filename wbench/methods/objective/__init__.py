"""Methods that rewrite the loss, the sample weights or the data."""

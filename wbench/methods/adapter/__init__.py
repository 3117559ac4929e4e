"""Methods that add trainable parameters beside frozen ones."""

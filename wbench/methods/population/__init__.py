"""Works over many models."""

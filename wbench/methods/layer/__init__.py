"""Methods that replace modules or build an architecture."""

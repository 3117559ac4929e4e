"""Pure tensor functions and graph look-ups that several papers share; torch and scipy only."""

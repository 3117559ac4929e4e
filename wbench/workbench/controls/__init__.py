"""Controls made from declared knobs alone: a plug-in's method has its sliders without code of ours."""

"""The panels: each turns what is on display into one figure, a sentence with the numbers, and the frame behind it."""

from wbench.workbench.panels.look import Drawn, Look, Panel
from wbench.workbench.panels.other import LANDSCAPE, MEMORY, PICTURE, SETTINGS
from wbench.workbench.panels.training import CURVES, RATES
from wbench.workbench.panels.weights import SPECTRUM, WEIGHTS

OVERVIEW = (CURVES, WEIGHTS, SPECTRUM, RATES)
ALONE = (LANDSCAPE, PICTURE, MEMORY, SETTINGS)

__all__ = ["ALONE", "OVERVIEW", "Drawn", "Look", "Panel"]

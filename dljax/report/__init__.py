"""What a run shows: figures that it makes and keeps, and the self-contained HTML page about it."""

from dljax.report.figures import Figure, animation, grid, image, plot, save_figures, table, text
from dljax.report.html import compare, write

__all__ = ["Figure", "animation", "compare", "grid", "image", "plot", "save_figures", "table", "text", "write"]

"""One look for all figures: the Okabe-Ito palette, sizes that stay readable in print, and the marks of the verdicts."""

import matplotlib as mpl

# Okabe & Ito: distinguishable with any common form of colour blindness, and in grey when markers differ
colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"]

VERDICT_COLOURS = {"reproduced": "#0072B2", "partly": "#E69F00", "not reproduced": "#A3360B", "not run": "#8A8A8A"}
VERDICT_GLYPHS = {"reproduced": "●", "partly": "◐", "not reproduced": "○", "not run": "–"}


def use_style() -> None:
    """Set matplotlib's defaults for the compendium's figures (100 dpi, committed notebooks stay small)."""
    mpl.rcParams.update(
        {
            "figure.figsize": (6.4, 3.4),
            "figure.dpi": 100,
            "savefig.dpi": 100,
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": mpl.cycler(color=colours[:7]),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "font.size": 9.5,
            "axes.titlesize": 10,
            "legend.frameon": False,
            "lines.linewidth": 1.6,
            "image.cmap": "viridis",
        }
    )

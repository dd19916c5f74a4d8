"""Touchstone: an executable compendium of deep-learning methods with registered claims."""

__version__ = "0.1.0"

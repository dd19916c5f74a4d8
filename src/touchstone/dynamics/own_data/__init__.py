"""Fit a method of this part to a time series of your own: read and check the table, hold out its end, fit, judge, write.

What was written is used again with ``load_model("model").simulate(steps=100)``, which continues the end of the file in its units.
"""

from touchstone.dynamics.own_data.fit import fit_file
from touchstone.dynamics.own_data.judging import judge
from touchstone.dynamics.own_data.model import FittedModel, Scale, load_model, methods
from touchstone.dynamics.own_data.table import Table, read_table

__all__ = ["FittedModel", "Scale", "Table", "fit_file", "judge", "load_model", "methods", "read_table"]

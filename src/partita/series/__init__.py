"""A day at once: rates over time, one plan after another for them, and the changes between.

`rates.py` reads the rates of each period, `forecast.py` forecasts them from what was measured, `planning.py` chooses
the plans and when to change, and `document.py` writes the schedule with its plans.
"""

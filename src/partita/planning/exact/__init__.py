"""The default planner: integer programs with a proof, from a handful of services to a hundred thousand."""

from partita.planning.exact.planner import ExactPlanner, TooFewGpusError

__all__ = ["ExactPlanner", "TooFewGpusError"]

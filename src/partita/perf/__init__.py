"""How fast a model runs on a slice: performance tables, operating points, importers and estimates."""

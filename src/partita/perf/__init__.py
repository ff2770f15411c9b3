"""What a model does on a slice: performance tables, operating points, importers and estimates."""

"""The Open Inference Protocol v2 as values: requests read and checked, answers and metadata written."""

"""Measures what an ONNX model does on the device at hand: batches, processes, latency, memory and power."""

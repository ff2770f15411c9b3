"""Measures an ONNX model on the device at hand: throughput and latency by batch and processes, memory and power."""

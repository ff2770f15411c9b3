"""The gateway over gRPC, in the same event loop as HTTP."""

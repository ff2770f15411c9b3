"""The gateway: one address for a service's unlike slices, which routes each query to where it is answered in time."""

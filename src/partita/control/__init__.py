"""The loop that brings a cluster to what is wanted: observe, plan, transition, act; and its journal."""

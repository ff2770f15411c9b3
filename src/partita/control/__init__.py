"""The loop that brings a cluster to a goal: observe, plan, transition, execute; and its journal."""

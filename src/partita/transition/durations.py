"""How long actions take: named sets of durations, typed in from their sources."""

from __future__ import annotations

from partita.transition.transition import Durations

MEASURED = Durations(create_instance=0.13, destroy_instance=0.17, start_replica=5.4, stop_replica=32.3)
"""Driver and pods, measured.

Instances: medians of the means of 300 runs on each of 18 layouts of an A100 (github spcl/gpuless-thesis at
c2434d8: creating takes 0.06-0.14 s, destroying 0.12-0.18 s). Replicas: Jormungandr (SYSTOR'24,
doi 10.1145/3688351.3689156): a day's 738 s of starting pods (figure 9) over its 137 starts (figure 10), and
32.3 s for a pod's graceful deletion (figure 11), nearly all of it draining.
"""

PAPER = Durations(create_instance=24.9, destroy_instance=24.9, start_replica=47.4, stop_replica=37.9)
"""MIG-Serving (arXiv 2109.11067, figure 13c), mapped onto our four kinds.

Its creation (47.4 s) starts a service on an instance that is there, its deletion (37.9 s) stops one. Its
repartition (49.8 s) takes a GPU's old instances away and makes the new ones: half for each, as what stands
on one GPU is destroyed side by side, then created side by side. Its migrations (47.9 s to another node, 30.4 s
within one) end when the new replica is ready and leave the old one to go; here they are a start and a stop.
"""

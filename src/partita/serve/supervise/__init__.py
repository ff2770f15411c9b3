"""Keeps a plan's workers running: one for each instance, replaced when it dies, drained when it is to go."""

from partita.serve.supervise.post import StartWith
from partita.serve.supervise.replicas import worker_process
from partita.serve.supervise.specs import worker_specs
from partita.serve.supervise.standing import Standing, standing
from partita.serve.supervise.supervisor import Kept, Supervisor

__all__ = ["Kept", "Standing", "StartWith", "Supervisor", "standing", "worker_process", "worker_specs"]

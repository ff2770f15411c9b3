"""Running jobs: an attempt is a folder, and a process whose watcher outlives the queue.

The watcher is tiny: a host runs as many as jobs. It and what it imports (`folder`, `child`, `oom`, `process.table`)
import no pathlib, dataclasses or typing.
"""

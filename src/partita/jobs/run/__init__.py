"""Running jobs: an attempt is a folder, and a process whose watcher outlives the queue.

The watcher is tiny: a host runs as many as jobs. It and what it imports (`folder`, `oom`, and of `process` all but
`keeper`) import no pathlib, dataclasses or typing.
"""

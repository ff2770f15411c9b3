"""Running jobs: an attempt is a folder and a process, with a watcher process that outlives the daemon.

The watcher is small, as each job on a host has one. It and what it imports (`folder`, `oom`, and of `process` all but
`keeper`) do not import pathlib, dataclasses or typing.
"""

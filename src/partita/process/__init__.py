"""Processes of this host (Linux): starting, identifying, watching and ending them, whatever they do.

`table` reads /proc, and `launch` starts a process as another user; both import next to nothing, for the watcher of a
job. All other code uses `keeper`.
"""

"""Processes of this host (Linux): started, known again, watched and ended. It knows nothing of what they are for.

`table` reads /proc, and `launch` starts a process as another user; both import next to nothing, as the watcher of a
job does. `keeper` is for everybody else.
"""

"""Inside: what runs in the nursery and in the environments, with the standard library alone.

The worker uses some of it, too: how both ends speak (frames), what the system is asked for (limits, cgroup, kernel).
"""

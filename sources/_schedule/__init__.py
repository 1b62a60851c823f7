"""The rooms of the schedule source; see sources/schedule.py."""

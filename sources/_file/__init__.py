"""The rooms of the file source; see sources/file.py."""

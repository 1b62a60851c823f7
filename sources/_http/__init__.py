"""The rooms of the HTTP source; see sources/http.py."""

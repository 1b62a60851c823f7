"""The store: connect to Redis or Valkey, or run the embedded one. Empty on purpose: `up` needs no Redis client."""

"""The functions that ship with broker: small, real, each tested."""

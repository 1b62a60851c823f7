"""The kinds of event sources that ship with broker: one file a kind."""

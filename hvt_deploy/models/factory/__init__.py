"""A user's own networks, made by a callable that is named `module:factory`."""

"""What a graph or an engine holds: roles, facts of each node, multiply-accumulates."""

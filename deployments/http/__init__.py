"""The HTTP surface: routes, wire formats, limits, keys and errors. Knows ports, and nothing of Ray or SQL."""

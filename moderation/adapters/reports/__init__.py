"""The reports as SQL: each in a module of its own, named and titled, with typed parameters and columns; see `catalogue`."""

"""Where the domain touches the world: one small module or package for each thing, implementing `moderation.ports`."""

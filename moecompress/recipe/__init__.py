"""Floor 5: recipes: schema built from the registry, loading with line numbers."""

"""Records, names, errors, configuration and ports: the standard library, pydantic and PyYAML only."""

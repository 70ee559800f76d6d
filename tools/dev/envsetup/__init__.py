"""The set-up of the development environment, on the standard library alone; `setup` puts the parts together."""

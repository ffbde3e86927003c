"""One module a group of commands; each has a `register(app)`."""

"""The `tailrace` command: the local stack, jobs, lists and checks."""

"""The parts of `tasks.py`, one a file. Each is a function of the options that gives results."""

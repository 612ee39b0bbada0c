"""From argv to a command, and from an error to one line. Nothing is decided here.

Modules of commands are light: what a command needs it imports when it runs, so that `netplane --help` and
completion answer at once.
"""

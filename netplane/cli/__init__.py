"""The command line: argv to a call, and nothing else. What a command does lives in the room it belongs to."""

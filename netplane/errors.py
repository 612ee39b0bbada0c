"""Whose fault is it? Every error a person meets answers that first.

House style of a message: *cannot* + action + object + cause, then a hint. One line, no traceback.
"""


def cause_of(error: BaseException) -> str:
    """What the system, or a library, says of itself, as the cause in a message of ours: one line, and no numbers."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    mark = getattr(error, "problem_mark", None)  # PyYAML's
    if mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', error)}"
    return " ".join(str(error).split())


class NetplaneError(Exception):
    """Something a person can act on. ``hint`` says how, and may be empty."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class ConfigError(NetplaneError):
    """Yours: a flag, a file or an object says something that cannot be."""


class KernelError(NetplaneError):
    """The host's: the kernel refused, or lacks what was asked of it."""


class PeerError(NetplaneError):
    """Another process's: the API server, a daemon or a plugin did not answer as it should."""


class Bug(NetplaneError):
    """Ours: please report it."""

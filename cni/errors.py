"""The specification's error codes, so that every refusal has one and a runtime knows whether to try again."""

from enum import IntEnum

import orjson

from netplane.errors import ConfigError, NetplaneError


class Code(IntEnum):
    """CNI specification 1.1.0, "Error": 1 to 99 are the specification's, 8 is libcni's, 100 and up are ours."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    DECODING_FAILURE = 6
    INVALID_CONFIG = 7
    INVALID_NETNS = 8
    TRY_AGAIN = 11
    NOT_AVAILABLE = 50
    LIMITED_CONNECTIVITY = 51
    KERNEL = 100
    EXHAUSTED = 101
    ALREADY_ATTACHED = 102
    STORE = 103
    CHECK_FAILED = 104
    PORT_TAKEN = 105
    ADDRESS_TAKEN = 106
    INTERNAL = 199


class CniError(NetplaneError):
    """A verb that failed, as the runtime will read it."""

    def __init__(self, code: Code, message: str, details: str = "") -> None:
        super().__init__(message, details)
        self.code = code


def from_exception(error: Exception) -> CniError:
    """Any failure as one with a code: a wrong configuration is 7, what the host refused is 100."""
    if isinstance(error, CniError):
        return error
    if isinstance(error, ConfigError):
        return CniError(Code.INVALID_CONFIG, error.message, error.hint)
    if isinstance(error, NetplaneError):
        return CniError(Code.KERNEL, error.message, error.hint)
    return CniError(
        Code.INTERNAL, f"cannot answer: {type(error).__name__}: {error}", "This is a bug in netplane"
    )


def render(error: CniError, version: str) -> bytes:
    """The error object that goes to standard output, in the request's version."""
    document = {"cniVersion": version, "code": int(error.code), "msg": error.message}
    if error.hint:
        document["details"] = error.hint
    return orjson.dumps(document) + b"\n"

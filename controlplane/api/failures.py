"""What a client is told when the store fails: the code says whether waiting helps, the message what to do."""

from controlplane.store.contract import Busy, NoSpace, StoreError
from netplane.kube.errors import StatusError, internal, unavailable


def failure(error: StoreError) -> StatusError:
    """507 for a full disk, 503 where the same may work in a moment, 500 for what a person must mend."""
    match error:
        case NoSpace():
            return StatusError(507, "InsufficientStorage", str(error))
        case Busy():
            return unavailable(str(error))
    return internal(str(error))

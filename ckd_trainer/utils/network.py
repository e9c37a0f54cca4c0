"""Tells an outage of the network, or of a server, from an answer that will not change."""

import socket

from huggingface_hub import constants

# The libraries that read from the network for `datasets` and `transformers`.
LIBRARIES = {
    *("aiohttp", "botocore", "fsspec", "gcsfs", "httpcore", "httpcore2", "httpx", "httpx2", "huggingface_hub"),
    *("requests", "s3fs", "urllib3"),
}
_PASSING = (408, 425, 429)  # answers to a request that may be repeated, beside those from 500 on


def is_refused(error: BaseException) -> bool:
    """Returns whether a server has answered, and will answer the same request in the same way."""
    status = _status(error)
    return status is not None and 400 <= status < 500 and status not in _PASSING


def is_outage(error: BaseException) -> bool:
    """Returns whether an error, or one that led to it, comes from a network or a server that may be back later.

    With HF_HUB_OFFLINE, nothing is: the user has switched the network off.
    """
    if constants.HF_HUB_OFFLINE:
        return False
    cause: BaseException | None = error
    while cause is not None:
        if _status(cause) is not None:
            return not is_refused(cause)
        if isinstance(cause, (ConnectionError, TimeoutError, socket.gaierror)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _status(error: BaseException) -> int | None:
    """Returns the status of the answer that an error is about, None without an answer."""
    status = getattr(getattr(error, "response", None), "status_code", getattr(error, "status", None))
    return status if isinstance(status, int) else None

"""Errors of the network and the Hub: an outage, which will pass, or an answer that will not change."""

import contextlib
import socket
from collections.abc import Iterator

from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from ckd_trainer.utils.errors import InputError, TemporaryError

# The libraries that read from the network for `datasets` and `transformers`.
LIBRARIES = {
    *("aiohttp", "botocore", "fsspec", "gcsfs", "httpcore", "httpcore2", "httpx", "httpx2", "huggingface_hub"),
    *("requests", "s3fs", "urllib3"),
}
_PASSING = (408, 425, 429)  # answers to a request that may be repeated, beside those from 500 on
_OF_HUB = (HTTPError, OfflineModeIsEnabled, LocalTokenNotFoundError, HFValidationError)


@contextlib.contextmanager
def hub_errors(what: str, way_out: str) -> Iterator[None]:
    """Turns the errors of a call to the Hub into an `InputError`, and an outage into a `TemporaryError`.

    Args:
        what, way_out: the beginning and the end of the message, such as "the model cannot be uploaded".
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # large files are uploaded by code that raises errors of its own
        if not is_outage(error) and not isinstance(error, _OF_HUB):
            raise
        reason = f"{error} {error.__cause__ or ''}".strip()
        raise error_of_network(error)(f"{what} ({reason}): {way_out}.") from error


def error_of_network(error: BaseException) -> type[InputError]:
    """Returns the exception for an error that the user can fix: a `TemporaryError` for an outage."""
    return TemporaryError if is_outage(error) else InputError


def is_refused(error: BaseException) -> bool:
    """Returns whether a server has answered, and will answer the same request in the same way."""
    status = _status(error)
    return status is not None and 400 <= status < 500 and status not in _PASSING


def is_outage(error: BaseException) -> bool:
    """Returns whether an error, or one that led to it, comes from a network or a server that may be back later.

    In offline mode (HF_HUB_OFFLINE, HF_DATASETS_OFFLINE), nothing is: the user has switched the network off.
    """
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    # `datasets` names the cause in the text of another error.
    if constants.HF_HUB_OFFLINE or any("OfflineModeIsEnabled" in repr(one) for one in chain):
        return False
    for one in chain:
        if _status(one) is not None:
            return not is_refused(one)
        if isinstance(one, (ConnectionError, TimeoutError, socket.gaierror)) or _has_broken_off(one):
            return True
    return False


def _has_broken_off(error: BaseException) -> bool:
    """Returns whether httpx says that a server, or a proxy on the way to it, has given up."""
    name = type(error).__name__
    return name == "RemoteProtocolError" or (name == "ProxyError" and str(error).startswith("5"))


def _status(error: BaseException) -> int | None:
    """Returns the status of the answer that an error is about, None without an answer."""
    status = getattr(getattr(error, "response", None), "status_code", getattr(error, "status", None))
    return status if isinstance(status, int) else None

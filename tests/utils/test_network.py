"""Outages, as the libraries of Hugging Face report them, and answers that will not change."""

import datasets
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.text_tasks import load_task
from ckd_trainer.models import loading
from ckd_trainer.utils.errors import InputError, TemporaryError
from ckd_trainer.utils.network import is_outage, is_refused


class Answer(Exception):
    """An answer of a server, as in the errors of httpx and requests."""

    def __init__(self, status):
        self.response = self
        self.status_code = status


class RemoteProtocolError(Exception):
    """As in httpx: the server hung up."""


class ProxyError(Exception):
    """As in httpx, with the answer of the proxy."""


def wrapped(error):
    """The error as transformers passes it on."""
    try:
        try:
            try:
                raise error
            except Exception as cause:
                raise LocalEntryNotFoundError("not in the cache") from cause
        except LocalEntryNotFoundError:
            raise OSError("We couldn't connect")  # noqa: B904  # its context alone tells
    except OSError as outer:
        return outer


@pytest.fixture
def online(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionError("no route"), True),
        (TimeoutError(), True),
        (Answer(503), True),
        (Answer(429), True),
        (RemoteProtocolError("Server disconnected without sending a response."), True),
        (ProxyError("503 Service Unavailable"), True),
        (ProxyError("407 Proxy Authentication Required"), False),
        (OfflineModeIsEnabled("HF_DATASETS_OFFLINE is set"), False),
        (ConnectionError("Couldn't reach 'me/data' on the Hub (OfflineModeIsEnabled)"), False),  # of `datasets`
        (Answer(404), False),
        (Answer(401), False),
        (ValueError("a bad name"), False),
        (FileNotFoundError("no such file"), False),
    ],
)
def test_outages(online, error, expected):
    assert is_outage(error) is is_outage(wrapped(error)) is expected


@pytest.mark.parametrize(("status", "expected"), [(401, True), (404, True), (408, False), (429, False), (500, False)])
def test_refusals(status, expected):
    assert is_refused(Answer(status)) is expected
    assert not is_refused(ConnectionError())


def test_nothing_is_an_outage_if_the_user_is_offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not is_outage(ConnectionError("offline mode is enabled"))


@pytest.mark.parametrize(("error", "kind"), [(ConnectionError("no route"), TemporaryError), (Answer(404), InputError)])
def test_models_and_data(online, monkeypatch, error, kind):
    """A search must not count a trial as failed because the Hub was out of reach."""

    def fail(*arguments, **options):
        raise wrapped(error)

    monkeypatch.setattr(loading, "find_adapter_config_file", fail)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match="cannot load me/model: there is no such folder") as found:
        loading.load_config("me/model")
    assert type(found.value) is kind
    with pytest.raises(InputError, match=r"rte of nyu-mll/glue cannot be loaded .* check the network") as found:
        load_task(GlueArguments(task_name="rte"), seed=0)
    assert type(found.value) is kind

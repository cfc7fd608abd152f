import httpx
import pytest
import requests
from prefect.states import Failed

from ddlm.config import Unreachable, UserError
from ddlm.tracking.backends import Unavailable
from tasks.publish import is_not_waited_for, publish
from tasks.stage import is_transient


def wrapped(outer: Exception, cause: Exception) -> Exception:
    """What `raise outer` leaves where `cause` is being handled."""
    outer.__context__ = cause
    return outer


def hidden(outer: Exception, cause: Exception) -> Exception:
    """The same of `raise outer from None`."""
    outer.__context__, outer.__suppress_context__ = cause, True
    return outer


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("peer"),
        TimeoutError("slow"),
        Unreachable("the hub does not answer"),
        httpx.ConnectError("hub"),
        requests.Timeout("tracking"),
        wrapped(RuntimeError("API request failed"), requests.ConnectionError("tracking")),
    ],
)
def test_what_the_network_breaks_is_tried_again(error: Exception) -> None:
    assert is_transient(None, None, Failed(data=error))


@pytest.mark.parametrize(
    "error",
    [
        UserError("corpus: empty"),
        ValueError("NaN in the loss"),
        FloatingPointError("overflow"),
        wrapped(UserError("the hub can't be reached"), ConnectionError("hub")),
        hidden(RuntimeError("reported already"), ConnectionError("hub")),
    ],
)
def test_what_we_or_the_user_break_is_not_tried_again(error: Exception) -> None:
    assert not is_transient(None, None, Failed(data=error))


def test_a_registry_that_publishing_has_waited_for_is_not_waited_for_again() -> None:
    assert not is_not_waited_for(None, None, Failed(data=Unavailable("MLflow is away")))
    assert is_not_waited_for(None, None, Failed(data=Unreachable("the store is away")))
    assert publish.retry_condition_fn is is_not_waited_for

"""What the processes of one run decide together."""

from collections.abc import Callable

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from ckd_trainer.errors import InputError


def main_process_says(function: Callable):
    """Returns in all processes what a function returns, or raises, in the main one."""
    state = PartialState()
    answer = [in_all_processes(function if state.is_main_process else lambda: None)]
    if state.num_processes > 1:
        broadcast_object_list(answer)
    return answer[0]


def in_all_processes(function: Callable):
    """Returns what a function returns here; raises in all processes where it raises in any, so that none waits on."""
    result = error = None
    try:
        result = function()
    except Exception as exception:  # whatever it is, the others have to hear of it
        error = exception
    messages = [error and f"{type(error).__name__}: {error}"]
    if PartialState().num_processes > 1:
        messages = gather_object(messages)
    if error is not None:
        raise error
    elsewhere = [message for message in messages if message]
    if elsewhere:
        raise InputError(f"another process of this run failed ({elsewhere[0]}).")
    return result

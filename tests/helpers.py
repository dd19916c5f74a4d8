"""What several tests need."""

import inspect


def unchecked(function):
    """The function without the run-time shape check that the test session wraps around it.

    Users call functions without that check, so the library's own message for bad input must come first for them.
    """
    return inspect.unwrap(function)

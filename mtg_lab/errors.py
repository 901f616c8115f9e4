"""The one kind of error that is the user's to mend: the command prints its line and leaves with exit code 1."""


class InputError(ValueError):
    """Something that was handed in is at fault; the message is one line: what, where, how to mend it."""


class LostProcess(InputError):
    """Another process of the same training is gone; who started them knows which."""

"""Training methods; each is losses and a schedule around a backbone."""

from mtg_lab.errors import InputError
from mtg_lab.methods.baselines import Complete, Dropout
from mtg_lab.methods.contract import Losses, Method, checked_options
from mtg_lab.methods.mind_the_gap import AlignedTeacher, Student

METHODS: dict[str, type[Method]] = {m.name: m for m in (Complete, Dropout, AlignedTeacher, Student)}

__all__ = ["METHODS", "AlignedTeacher", "Complete", "Dropout", "Losses", "Method", "Student", "checked_options", "find"]


def find(name: str) -> type[Method]:
    """The method called ``name``.

    Raises:
        InputError: there is none.
    """
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; there are: {', '.join(METHODS)}")
    return METHODS[name]

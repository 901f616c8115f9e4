"""Training methods; each is losses and a schedule around a backbone."""

from mtg_lab.errors import InputError
from mtg_lab.methods.adamm import AdaMM
from mtg_lab.methods.baselines import Complete, Dropout
from mtg_lab.methods.contract import Losses, Method, checked_options
from mtg_lab.methods.gradient_modulation import GradientModulation
from mtg_lab.methods.inverse_frequency import InverseFrequency
from mtg_lab.methods.mind_the_gap import AlignedTeacher, Student
from mtg_lab.methods.passion import BalancedStudent, BalancedTeacher, Passion
from mtg_lab.methods.prototype_modulation import PrototypeModulation
from mtg_lab.methods.strategies import DataGeneration, FeatureGeneration, MultiTask, SampleRetrieval

_METHODS: tuple[type[Method], ...] = (
    Complete, Dropout, AlignedTeacher, Student, Passion, BalancedTeacher, BalancedStudent, InverseFrequency,
    PrototypeModulation, GradientModulation, AdaMM, DataGeneration, FeatureGeneration, SampleRetrieval, MultiTask,
)  # fmt: skip
METHODS: dict[str, type[Method]] = {m.name: m for m in _METHODS}

__all__ = ["METHODS", "Losses", "Method", "checked_options", "find", *sorted(m.__name__ for m in _METHODS)]


def find(name: str) -> type[Method]:
    """The method called ``name``.

    Raises:
        InputError: there is none.
    """
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; there are: {', '.join(METHODS)}")
    return METHODS[name]

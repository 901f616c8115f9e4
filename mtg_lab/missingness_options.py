"""The words that ask for a rule of missingness: checked, and brought to one form, so that one rule has one hash."""

import math
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from mtg_lab import vocabulary
from mtg_lab.errors import InputError

_NEEDED = object()

# Rules and their options, with defaults.
RULES: dict[str, Mapping[str, Any]] = {
    "complete": {},
    "subset": {"subset": _NEEDED},
    "uniform": {},
    "independent": {"rates": _NEEDED},
    "imbalanced": {"rates": _NEEDED},
    "site": {"sites": _NEEDED},
    "case": {"modality": "t1c", "rate": 0.5, "slope": 2.0},
    "table": {"modalities": _NEEDED, "subjects": _NEEDED},
}
EXAMPLES = {
    "subset": "subset:t1n+t2w",
    "independent": "independent:t1n=.2,t1c=.4",
    "imbalanced": "imbalanced:t1n=.2,t1c=.4,t2f=.6,t2w=.8 (or imbalanced:mr2468)",
    "site": "site:B=-t1c,C=t1n+t2w",
    "case": "case:modality=t1c,rate=.5,slope=2",
    "table": "a file, missing.csv",
}
# The published files of PASSION list the sequences so, and their random stream depends on it.
_PUBLISHED_ORDER = ("t1n", "t1c", "t2f", "t2w")


def in_order(names: Iterable[str]) -> list[str]:
    """Modalities in one order whoever wrote them: t1n, t1c, t2f, t2w as PASSION's files list them, others behind."""
    chosen = set(names)
    return [m for m in _PUBLISHED_ORDER if m in chosen] + sorted(chosen - set(_PUBLISHED_ORDER))


def split_text(text: str) -> tuple[str, dict[str, Any], int | None]:
    """``"imbalanced:t1n=.2,t1c=.4,seed=3"`` as rule, options and seed (None where it is not named).

    Raises:
        InputError: an unknown rule, or options where the rule takes none.
    """
    rule, colon, rest = text.strip().partition(":")
    _known(rule)
    parts = [p for p in rest.split(",") if p.strip()]
    seed = None
    if rule != "site":  # where seed= could be a site's name, and nothing is drawn
        for part in [p for p in parts if p.partition("=")[0].strip() == "seed"]:
            parts.remove(part)
            seed = _whole(part.partition("=")[2])
    rest = ",".join(parts)
    takes = [name for name, default in RULES[rule].items() if default is _NEEDED]
    if rule == "table" or (colon and rest and not RULES[rule]):
        raise InputError(f"the rule {rule} is not written {text!r}; write {EXAMPLES.get(rule, rule)}")
    if takes and not rest:
        raise InputError(f"the rule {rule} needs {takes[0]}; write {EXAMPLES[rule]}")
    if takes:
        return rule, {takes[0]: rest}, seed
    return rule, dict(_pairs(rest, EXAMPLES.get(rule, rule))), seed


def checked_options(rule: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a rule in their one form: canonical names, numbers as floats, everything in order.

    Raises:
        InputError: an unknown rule or option, one that is missing, or a value of no use.
    """
    _known(rule)
    if not isinstance(options, Mapping):
        raise InputError(f"the options of rule {rule} are {options!r}; give names with values, as {EXAMPLES[rule]}")
    known = RULES[rule]
    for name in options:
        if name not in known:
            raise InputError(f"rule {rule} takes no option {name!r}; it takes: {', '.join(known) or 'none'}")
    merged = {name: options.get(name, default) for name, default in known.items()}
    for name, value in merged.items():
        if value is _NEEDED:
            raise InputError(f"the rule {rule} needs {name}; write {EXAMPLES[rule]}")
    return {name: _CHECKS[name](rule, value) for name, value in merged.items()}


def _subset(rule: str, value: Any) -> str:
    parts = value.replace(",", "+").split("+") if isinstance(value, str) else _listed(rule, "subset", value)
    names = in_order(vocabulary.canonical_modality(str(p)) for p in parts if str(p).strip())
    if not names:
        raise InputError(f"rule {rule}: the subset {value!r} is empty; write {EXAMPLES['subset']}")
    return "+".join(names)


def _rates(rule: str, value: Any) -> dict[str, float]:
    if rule == "imbalanced" and (digits := re.fullmatch(r"(?:mr)?(\d{4})", str(value).strip())):
        value = {m: int(d) / 10 for m, d in zip(_PUBLISHED_ORDER, digits[1])}  # the name of a published file
    pairs = list(value.items()) if isinstance(value, Mapping) else _pairs(value, EXAMPLES[rule])
    rates: dict[str, float] = {}
    for name, rate in pairs:
        modality = vocabulary.canonical_modality(str(name))
        if modality in rates:
            raise InputError(f"rule {rule}: the rate of {modality} is given twice (aliases count); keep one of them")
        rates[modality] = _number(f"rule {rule}: the missing rate of {modality}", rate, 0, 1)
    if not rates:
        raise InputError(f"rule {rule} needs rates; write {EXAMPLES[rule]}")
    if rule == "imbalanced" and max(rates.values()) >= 1:
        gone = next(m for m, r in rates.items() if r >= 1)
        raise InputError(f"rule {rule}: the missing rate of {gone} is 1; give less, or leave its column out")
    return {m: rates[m] for m in in_order(rates)}


def _sites(rule: str, value: Any) -> dict[str, str]:
    pairs = list(value.items()) if isinstance(value, Mapping) else _pairs(value, EXAMPLES[rule])
    sites: dict[str, str] = {}
    for site, words in pairs:
        if str(site) in sites:
            raise InputError(f"rule {rule}: the site {site} is given twice; keep one of them")
        text = str(words).strip()
        lacks = text.startswith("-")
        named = _subset(rule, text.replace("-", "+") if lacks else words)
        sites[str(site)] = "-" + named.replace("+", "-") if lacks else named
    if not sites:
        raise InputError(f"rule {rule} needs sites; write {EXAMPLES[rule]}")
    return dict(sorted(sites.items()))


def _columns(rule: str, value: Any) -> list[str]:
    return in_order(vocabulary.canonical_modality(str(m)) for m in _listed(rule, "modalities", value))


def _subjects(rule: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not value:
        raise InputError(f"rule {rule}: subjects are {value!r}; give names with subsets, or read {EXAMPLES[rule]}")
    return {str(name): _subset(f"{rule}, subject {name}", words) for name, words in sorted(value.items())}


def _listed(rule: str, name: str, value: Any) -> list[Any]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InputError(f"rule {rule}: {name} is {value!r}; give a list of names")
    return list(value)


def _pairs(text: Any, example: str) -> list[tuple[str, str]]:
    """``"a=1,b=2"`` as pairs."""
    parts = [p.partition("=") for p in str(text).split(",") if p.strip()]
    for name, equals, value in parts:
        if not (name.strip() and equals and value.strip()):
            raise InputError(f"{text!r} is no list of NAME=VALUE; write {example}")
    return [(name.strip(), value.strip()) for name, _, value in parts]


def _number(what: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    try:
        number = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        number = math.nan
    if not (low <= number <= high and math.isfinite(number)):  # so that NaN is refused as well
        wanted = f"a number from {low:g} to {high:g}" if math.isfinite(low) else "a number"
        raise InputError(f"{what} is {value!r}; give {wanted}")
    return number


def _whole(text: str) -> int:
    if not text.strip().isdecimal():
        raise InputError(f"seed is {text!r}; give a whole number from 0 on")
    return int(text)


def _known(rule: Any) -> None:
    if str(rule) not in RULES:
        near = get_close_matches(str(rule), RULES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"unknown rule of missingness {rule!r}; there are: {', '.join(RULES)}{hint}")


_CHECKS: dict[str, Any] = {
    "subset": _subset,
    "rates": _rates,
    "sites": _sites,
    "modality": lambda rule, value: vocabulary.canonical_modality(str(value)),
    "rate": lambda rule, value: _number(f"rule {rule}: the mean missing rate", value, 0, 1),
    "slope": lambda rule, value: _number(f"rule {rule}: the slope", value),
    "modalities": _columns,
    "subjects": _subjects,
}

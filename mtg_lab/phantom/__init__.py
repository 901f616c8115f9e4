"""A synthetic cohort of gliomas in four or six MRI sequences, made from real anatomy, growth equations and MR physics.

The order of the data: `atlas` draws a person's brain, `vessels` what takes up contrast in it, `tumour` grows a glioma,
`signal` scans it, `maps` adds diffusion and perfusion, `patient` joins them, `cohort` writes patients and tables of
patients. What makes patients and scans more varied than the plain phantom is a switch each, listed in `ingredients`:
`contents` of a core, `scanners` nobody has met, `artefacts`.
"""

from .cohort import cohort_rows, file_names, find_protocol, materialise, write_case
from .ingredients import INGREDIENTS, OPTIONAL, VARIED_VERSION, chosen_ingredients
from .maps import EXTENDED
from .patient import GENERATOR_VERSION, PROTOCOLS, PhantomCase, layers, synthesise
from .signal import MODALITIES, SITES, Scanner

__all__ = [
    "EXTENDED",
    "GENERATOR_VERSION",
    "INGREDIENTS",
    "MODALITIES",
    "OPTIONAL",
    "PROTOCOLS",
    "SITES",
    "VARIED_VERSION",
    "PhantomCase",
    "Scanner",
    "chosen_ingredients",
    "cohort_rows",
    "file_names",
    "find_protocol",
    "layers",
    "materialise",
    "synthesise",
    "write_case",
]

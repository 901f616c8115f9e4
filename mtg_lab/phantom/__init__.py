"""A synthetic cohort of gliomas in four MRI sequences, made from real anatomy, growth equations and MR physics.

The order of the data: `atlas` draws a person's brain, `vessels` what takes up contrast in it, `tumour` grows a glioma,
`signal` scans it, `cohort` writes patients and tables of patients.
"""

from .cohort import GENERATOR_VERSION, PhantomCase, cohort_rows, layers, materialise, synthesise, write_case
from .signal import MODALITIES, SITES, Scanner

__all__ = [
    "GENERATOR_VERSION",
    "MODALITIES",
    "SITES",
    "PhantomCase",
    "Scanner",
    "cohort_rows",
    "layers",
    "materialise",
    "synthesise",
    "write_case",
]

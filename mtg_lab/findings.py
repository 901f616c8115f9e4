"""What doctor can find: a severity, a stable code, where, one line, and the mend."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SEVERITIES = ("error", "warning", "note")

# What each code stands for. Codes are stable: scripts count and filter by them.
CODES = {
    "row": "a row of the manifest is at fault and left out",
    "schemas": "the rows name more than one label schema",
    "file-unreadable": "a file is missing, cut short, damaged, no NIfTI, or not one number a voxel in 3-D",
    "grid-shape": "images of one row differ in shape",
    "grid-affine": "images of one row share the shape but lie elsewhere",
    "grid-orientation": "images of one row are stored in different orientations",
    "affine-unset": "the header does not say where the image lies (sform and qform code 0)",
    "spacing-anisotropic": "voxels are much longer than wide; a warning from three times on",
    "spacing-differs": "subjects differ in spacing",
    "orientation-differs": "subjects differ in orientation",
    "not-finite": "an image holds NaN or infinite voxels",
    "constant": "an image holds one value only",
    "saturated": "values pile up at the ceiling of the integer type",
    "negative-values": "intensities below zero inside the brain",
    "background": "the background is not zero; a warning without a brain mask, a note with one",
    "brain-differs": "the brain of one sequence is not the brain of the others",
    "label-missing": "a row with a split has no label",
    "label-value": "the label holds integers that its schema does not know",
    "label-fraction": "the label holds values that are not whole",
    "label-float": "the label is stored as floats, all of them whole",
    "label-empty": "the label has no foreground",
    "label-outside": "tumour outside the brain; an error where it is more than half of it",
    "same-content": "one file's content stands in two places",
    "near-identical": "two subjects' volumes are copies up to scaling, noise or cropping; an error across splits",
    "split-absent": "no row has a split, or a split has no row",
    "split-tiny": "a split is too small for a mean over subjects",
    "site-one-split": "a site occurs in one split only; a warning where training never sees it",
    "site-imbalance": "sites are shared out over the splits less evenly than chance does",
    "region-absent": "a region of the schema never occurs in a split",
    "modality-missing": "subjects lack a sequence; a warning where a whole split does",
}


@dataclass(frozen=True)
class Finding:
    """One thing that doctor noticed.

    Attributes:
        severity: ``error`` (cannot be used), ``warning`` (can be used, but look at it) or ``note`` (worth knowing).
        code: the kind of finding, a key of :data:`CODES`.
        subject: the row, empty for the whole manifest.
        file: the file, empty where the finding is of none or of several.
        line: what was found and where.
        mend: how to mend it.
    """

    severity: str
    code: str
    subject: str
    file: str
    line: str
    mend: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.line}; {self.mend}"


def split_line(text: str) -> tuple[str, str]:
    """The two parts of a refusal, ``what and where; mend``."""
    line, _, mend = text.partition("; ")
    return line, mend or "mend it"


def counted(findings: Sequence[Finding]) -> str:
    """``1 error, 2 warnings, 0 notes``."""
    numbers = Counter(f.severity for f in findings)
    return ", ".join(f"{numbers[s]} {s}{'' if numbers[s] == 1 else 's'}" for s in SEVERITIES)


def told(findings: Sequence[Finding], most: int = 10) -> Iterator[str]:
    """Lines to print, errors first; of the warnings and notes of one kind the first ``most``, then their number."""
    for severity in SEVERITIES:
        kinds = Counter(f.code for f in findings if f.severity == severity)
        shown: Counter[str] = Counter()
        for finding in (f for f in findings if f.severity == severity):
            shown[finding.code] += 1
            if severity == "error" or shown[finding.code] <= most:
                yield str(finding)
            elif shown[finding.code] == kinds[finding.code]:
                yield f"{severity}: {kinds[finding.code] - most} more of the kind {finding.code}; --json lists them all"

"""Tables and facts before layout: every cell is text, every format lays out the same ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hvt_deploy.evaluation.record import Row

Group = Literal["accuracy", "speed", "detail"]


@dataclass(frozen=True)
class Cell:
    """One figure.

    Attributes:
        value: The figure as text.
        spread: Its interval, or another figure that qualifies it; "" for none.

    """

    value: str
    spread: str = ""


@dataclass(frozen=True)
class Column:
    """A column of figures or names.

    Attributes:
        title: Heading.
        group: Where the column belongs if the table is too wide.
        cell: The cell of a row; None if the row has no such figure.
        is_text: Whether cells are text, aligned left.

    """

    title: str
    group: Group
    cell: Callable[[Row], Cell | None]
    is_text: bool = False


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        row: The backend.
        is_reference: Whether it is the reference of the validation.
        cells: One per column.

    """

    row: Row
    is_reference: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Backends and their figures.

    Attributes:
        columns: Those for which at least one backend has a figure.
        lines: One per backend that ran.

    """

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Fact:
    """A label and its value, as text."""

    label: str
    """The name of the value."""
    value: str
    """The value, with its unit."""


@dataclass(frozen=True)
class Grid:
    """A plain table.

    Attributes:
        title: caption above the table.
        headings: one per column.
        rows: cells as text, one per heading.
        names: the first `names` columns are text, the others numbers.
        note: a sentence below the table.

    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1
    note: str = ""


@dataclass(frozen=True)
class Matrix:
    """The confusion matrix of a backend.

    Attributes:
        title: name of the backend.
        names: class names, for rows and columns.
        images: number of images by true class (row) and predicted class (column).
        shares: the same as a share of the images of the true class, 0 to 1.

    """

    title: str
    names: tuple[str, ...]
    images: tuple[tuple[int, ...], ...]
    shares: tuple[tuple[float, ...], ...]

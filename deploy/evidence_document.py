"""The kinds of text that a printed evidence pack is made of, on A4."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from importlib.resources import files

from fpdf import FPDF
from fpdf.enums import TableBordersLayout, TextEmphasis, WrapMode, XPos, YPos
from fpdf.fonts import FontFace

Colour = tuple[int, int, int]
Cell = str | tuple[str, Colour]
"""What stands in a table: a text, or a text and its colour."""

INK: Colour = (34, 29, 24)
FAINT: Colour = (96, 88, 78)
GOOD: Colour = (31, 111, 67)
WARN: Colour = (138, 90, 0)
BAD: Colour = (163, 33, 23)

_SERIF, _MONO = "serif", "mono"
_LINE: Colour = (205, 196, 182)
_SHADE: Colour = (244, 240, 231)
_WHITE: Colour = (255, 255, 255)
_MARGIN = 18.0
_TOGETHER = 52.0
"""Millimetres that a heading wants below it, so that it does not stand alone at the foot of a page."""

_LETTERS_A_MM = 20.0
"""Of a column's width: a row that is higher than a page cannot be printed, so longer texts are cut."""


class Document(FPDF):
    """A4 with our fonts and page numbers.

    Args:
        title: Of the document.
        foot: Of every page.
        made_at: With its zone.
    """

    def __init__(self, title: str, foot: str, made_at: dt.datetime) -> None:
        super().__init__(format="A4")
        folder = files("deploy") / "pages" / "fonts"
        self.add_font(_SERIF, "", str(folder / "DejaVuSerifCondensed.ttf"))
        self.add_font(_SERIF, "B", str(folder / "DejaVuSerifCondensed-Bold.ttf"))
        self.add_font(_MONO, "", str(folder / "DejaVuSansMono.ttf"))
        self._foot = foot
        self.set_margins(_MARGIN, _MARGIN)
        self.c_margin = 0
        self.set_auto_page_break(auto=True, margin=20)
        self.set_title(title)
        self.set_creator("bottega")
        self.set_lang("en")
        self.set_creation_date(made_at)
        self.add_page()

    def footer(self) -> None:
        """Write the foot of a page."""
        self.set_y(-14)
        self.set_font(_SERIF, size=8)
        self.set_text_color(*FAINT)
        self.cell(0, 5, self._foot)
        self.set_x(-40 + _MARGIN - 18)
        self.cell(22, 5, f"{self.page_no()} / {{nb}}", align="R")

    def title_line(self, text: str) -> None:
        """Write the title."""
        self.set_font(_SERIF, "B", 20)
        self.set_text_color(*INK)
        self.multi_cell(0, 9, text, new_x=XPos.LMARGIN, new_y=YPos.NEXT)

    def heading(self, text: str, level: int = 0) -> None:
        """Begin a part; it is an entry of the document's outline."""
        if self.will_page_break(_TOGETHER if level == 0 else _TOGETHER / 2):
            self.add_page()
        self.ln(6 if level == 0 else 3)
        self.start_section(text, level)
        self.set_font(_SERIF, "B", 13 if level == 0 else 10.5)
        self.set_text_color(*INK)
        self.multi_cell(0, 7 if level == 0 else 6, text, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(1)

    def words(self, text: str, colour: Colour = INK, *, bold: bool = False, size: float = 9.5) -> None:
        """Write a paragraph."""
        self.set_font(_SERIF, "B" if bold else "", size)
        self.set_text_color(*colour)
        self.multi_cell(0, size * 0.53, text, align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(1.2)

    def code(self, text: str) -> None:
        """Write a command, a key or a note, each line as it is."""
        self.set_font(_MONO, size=7.2)
        self.set_text_color(*INK)
        self.set_fill_color(*_SHADE)
        self.multi_cell(0, 3.9, text, align="L", fill=True, new_x=XPos.LMARGIN, new_y=YPos.NEXT, padding=1,
                        wrapmode=WrapMode.CHAR)  # fmt: skip
        self.set_fill_color(*_WHITE)  # else the next table has it
        self.ln(1.5)

    def facts_list(self, rows: Sequence[tuple[str, str]], *, mono: Sequence[str] = ()) -> None:
        """Write names, each with what is said of it."""
        self.set_font(_SERIF, size=9.2)
        self.set_draw_color(*_LINE)
        with self.table(
            borders_layout=TableBordersLayout.NONE, col_widths=(24, 76), first_row_as_headings=False, line_height=4.9,
            text_align="L", v_align="T", padding=(0.6, 1.5, 0.6, 0),
        ) as table:  # fmt: skip
            for name, said in rows:
                row = table.row()
                row.cell(name, style=FontFace(color=FAINT))
                row.cell(
                    _cut(said, 0.76 * self.epw),
                    style=FontFace(_MONO, size_pt=7.6) if name in mono else FontFace(color=INK),
                )
        self.ln(1)

    def grid(
        self,
        names: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        widths: Sequence[float],
        *,
        right: Sequence[int] = (),
        centred: Sequence[int] = (),
        mono: Sequence[int] = (),
        size: float = 8.2,
    ) -> None:
        """Write a table; a cell may be a pair of text and colour. The names come again on each page."""
        self.set_font(_SERIF, size=size)
        self.set_text_color(*INK)
        self.set_draw_color(*_LINE)
        aligned = tuple("R" if i in right else "C" if i in centred else "L" for i in range(len(names)))
        with self.table(
            borders_layout=TableBordersLayout.HORIZONTAL_LINES, col_widths=tuple(widths), line_height=size * 0.53,
            text_align=aligned, v_align="T", padding=(0.8, 2.4, 0.8, 0),
            headings_style=FontFace(emphasis=TextEmphasis.NONE, color=FAINT),
        ) as table:  # fmt: skip
            head = table.row()
            for name in names:
                head.cell(name)
            for cells in rows:
                row = table.row()
                for place, cell in enumerate(cells):
                    text, colour = cell if isinstance(cell, tuple) else (cell, INK)
                    family, points = (_MONO, size - 1.4) if place in mono else (_SERIF, size)
                    wide = widths[place] / sum(widths) * self.epw
                    row.cell(_cut(text, wide), style=FontFace(family, size_pt=points, color=colour))
        self.ln(2)


def _cut(text: str, wide: float) -> str:
    most = int(wide * _LETTERS_A_MM)
    return text if len(text) <= most else text[:most] + " … (the page has all of it)"

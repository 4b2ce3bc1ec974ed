"""Command line: a study's report as a page, or the paper's Table 1 over studies; runs nothing.

python -m tuner.report STUDY
python -m tuner.report table1
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trainables.errors import UserError
from tuner.command_line import answer, study_parser

TABLE = "table1"  # in place of a study
DESCRIPTION = """\
The report of a study, finished or not, as one HTML page that needs no network, report.html, and its
Markdown twin, report.md. Or, for table1, the paper's Table 1 beside finished studies, printed and
written as results.md, results.csv and results.html, with a grid of each study: of several studies
of one experiment, the newest of those that trained about as long as any is taken; those of
stand-ins, other pictures, classes or sizes have no place in it.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line -> its exit code."""
    parser = study_parser("report", DESCRIPTION)
    parser.add_argument(
        "--out",
        type=Path,
        help="where the files go (default: the study's folder; for table1 the storage folder)",
    )
    return answer(lambda: _report(parser.parse_args(argv)))


def _report(arguments: argparse.Namespace) -> int:
    try:
        if arguments.study == TABLE:
            from tuner.table1 import show

            show(Path(arguments.storage), arguments.out)
        else:
            _study_report(arguments.study, arguments.storage, arguments.out)
    except OSError as error:
        raise UserError(f"The report cannot be written ({error}): name another --out.") from error
    return 0


def _study_report(study: str, storage: str, out: Path | None) -> None:
    from trainables.addresses import is_address
    from tuner.report_page import report_on
    from tuner.studies import place_of

    folder = place_of(study, storage).folder
    named = storage if is_address(storage) else str(folder.parent)
    page = report_on(folder, storage=named, out=out)
    print(f"{page} ({page.stat().st_size / 2**20:.1f} MB), and report.md beside it")


if __name__ == "__main__":
    sys.exit(main())

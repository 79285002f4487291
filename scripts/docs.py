"""Write the tables of docs/ anew, from the code.

python scripts/docs.py                                  → what changed of docs/*.md
"""

from pathlib import Path

from normbench.cli import CommandLine, one_line
from normbench.docs import filled

DOCS = Path(__file__).resolve().parents[1] / "docs"


@one_line
def main() -> None:
    CommandLine(__doc__).parse_args()
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text("utf-8")
        if (new := filled(text)) != text:
            path.write_text(new, "utf-8")
            print(path)


if __name__ == "__main__":
    main()

"""Compare the table of methods on standard input with the one in the README; exit 1 with the difference."""

import difflib
import sys
from pathlib import Path

START, END = "<!-- methods -->", "<!-- /methods -->"

if __name__ == "__main__":
    fresh = sys.stdin.read().strip().splitlines()
    text = Path(sys.argv[1]).read_text()
    written = text.partition(START)[2].partition(END)[0].strip().splitlines()
    if fresh != written:
        print("\n".join(difflib.unified_diff(written, fresh, "README.md", "wbench methods --markdown", lineterm="")))
        sys.exit("the README's table of methods is out of date; put in what `wbench methods --markdown` prints")

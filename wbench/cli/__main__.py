"""`python -m wbench.cli ...`."""

from wbench.cli import main

if __name__ == "__main__":
    main()

"""`python -m emstream`."""

from emstream.cli import main

if __name__ == "__main__":
    main()

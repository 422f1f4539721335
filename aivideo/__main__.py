"""``python -m aivideo`` is ``aivideo``."""

from aivideo.cli import main

if __name__ == "__main__":
    main()

"""Run the command line: as the command `broker`, and as `python -m broker`."""

import sys


def main() -> int:
    """Run the command line and return its exit code, also when Ctrl-C comes while it is being imported."""
    try:
        from broker.cli import main as run  # noqa: PLC0415 -- see above
    except KeyboardInterrupt:
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())

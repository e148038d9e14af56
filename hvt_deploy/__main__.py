"""The entry point: `hvt-deploy` and `python -m hvt_deploy`."""

from __future__ import annotations

from hvt_deploy.cli import run


def main() -> None:
    """Run the command line. Exit codes are those of `hvt_deploy.core.errors`, and 130 where it was
    interrupted.
    """
    run()


if __name__ == "__main__":
    main()

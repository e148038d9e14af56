"""The entry point: `hvt-deploy` and `python -m hvt_deploy`."""

from __future__ import annotations

from hvt_deploy.core.ending import end_at_once


def main() -> None:
    """Run the command line. Exit codes are those of `hvt_deploy.core.errors`, and 130 where it was
    interrupted, 143 terminated, 129 hung up.
    """
    end_at_once()  # importing takes a while

    from hvt_deploy.cli import run

    run()


if __name__ == "__main__":
    main()

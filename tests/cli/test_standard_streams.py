"""Where the machine is in the way (output, cache, working directory), the error names it."""

from __future__ import annotations

import subprocess
import sys

import pytest

RUN = [sys.executable, "-c", "import hvt_deploy.cli; hvt_deploy.cli.run()"]


def shell(line, cwd, **options):
    """A line of shell in which `$@` is hvt-deploy."""
    command = ["bash", "-c", f"set -o pipefail; {line}", "bash", *RUN]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False, **options
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('"$@" models > /dev/full', "Could not write to standard output: No space left on device."),
        ('"$@" models --json > /dev/full', "Could not write to standard output: No space left"),
        ('"$@" --help > /dev/full', "Could not write to standard output: No space left on device."),
        ('"$@" models >&-', "Standard output is closed."),
        ('"$@" models | true', "Could not write to standard output: Broken pipe."),
        (
            'XDG_CACHE_HOME=/proc/none "$@" export fdvit_b',
            "The cache cannot be used: /proc/none",
        ),
        (
            'ulimit -f 100; "$@" export hvt_demo --weights random',
            "Could not write to artifacts/hvt_demo: File too large.",
        ),
        ('mkdir gone && cd gone && rmdir ../gone && "$@" inspect', "working directory was deleted"),
    ],
)
def test_it_is_named_and_the_exit_code_is_3(tmp_path, line, said):
    done = shell(line, tmp_path)
    assert (done.returncode, said in done.stderr) == (3, True), done.stderr
    assert done.stderr.count("Error:") == 1
    assert "fault" not in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_without_a_place_for_errors_the_results_still_come(tmp_path):
    done = shell('"$@" models 2>&-', tmp_path)
    assert done.returncode == 0
    assert "fdvit_b" in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_help_and_errors_work_in_any_encoding(tmp_path, encoding):
    for arguments, code in (("validate --help", 0), ("inspect bé", 2)):
        done = shell(f'PYTHONIOENCODING={encoding} "$@" {arguments}', tmp_path)
        assert done.returncode == code
        assert "fault" not in done.stderr

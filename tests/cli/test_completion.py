"""The Tab key: what it offers, in no time, and in the real shells."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).with_name("hvt-deploy")
SHELLS = {
    "bash": ["bash", "-i"],
    "zsh": ["zsh", "-i"],
    "fish": ["fish", "-i"],
}


@pytest.fixture
def place(tmp_path):
    """A folder with a workspace in it, of which completion looks at the manifests' names only."""
    for name in ("my_model-224x224", "other"):
        (tmp_path / "here" / name).mkdir(parents=True)
        (tmp_path / "here" / name / "manifest.json").touch()
    (tmp_path / "here" / "no_model").mkdir()
    return tmp_path


def ask_bash(place, *words):
    """What is offered for the last of the words, as bash splits a line."""
    request = {
        "_HVT_DEPLOY_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(("hvt-deploy", *words)),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-X", "importtime", PROGRAM],
        cwd=place,
        env={**os.environ, **request},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert not re.search(r"\| +(torch|timm|onnx|rich)$", done.stderr, re.MULTILINE)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("exp",), ["export"]),
        (("export", "hvt_s_"), [f"hvt_s_{n}" for n in range(5)]),
        (("export", "tim"), ["timm:"]),
        (("export", "timm", ":", "visformer_t"), ["visformer_tiny"]),
        (("quantize", "--workspace", "here", ""), ["my_model-224x224", "other"]),
        (("predict", "--workspace", "=", "here", "--model", "my"), ["my_model-224x224"]),
        (("build-trt", "--workspace", "here", "other", "my"), ["my_model-224x224"]),
        (("build-trt", "--precision", "int8-"), ["int8-fp32"]),
        (("quantize", "--precision", "fp"), ["fp32", "fp16"]),
        (("sweep", "--models", "fdvit_b,hvt_ti"), ["fdvit_b,hvt_ti_1"]),
        (("sweep", "--precisions", "fp32,int8-"), ["fp32,int8-fp32"]),
        (("validate", "--max-t"), ["--max-top1-drop"]),
        (("validate", "--data", "he"), []),
    ],
)
def test_completions(place, words, offered):
    assert ask_bash(place, *words) == offered


class Terminal:
    """A shell on a terminal, with an empty home folder."""

    def __init__(self, command, place):
        self.process, self.screen = pty.fork()
        if self.process == 0:
            os.chdir(place)
            more = {"HOME": str(place), "TERM": "vt100", "PS1": "> ", "COLUMNS": "160"}
            paths = {"PATH": f"{PROGRAM.parent}:{os.environ['PATH']}", "XDG_CONFIG_HOME": ""}
            os.execvpe(command[0], command, {**os.environ, **more, **paths})
        self.read()

    def type(self, text):
        """What the terminal shows after the text was typed."""
        os.write(self.screen, text.encode())
        return self.read()

    def read(self):
        shown, deadline = b"", time.monotonic() + 60
        while time.monotonic() < deadline and select.select([self.screen], [], [], 6)[0]:
            try:
                shown += os.read(self.screen, 4096)
            except OSError:  # the shell ended
                break
            if b"\x1b[c" in shown[-40:]:  # fish asks what terminal this is
                os.write(self.screen, b"\x1b[?6c")
        return re.sub(r"\x1b[\[(][0-9;?]*[a-zA-Z]|\x1b[=>]", "", shown.decode(errors="replace"))

    def close(self):
        os.close(self.screen)
        os.waitpid(self.process, 0)


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_completes_after_the_installation(shell, place):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (place / ".zshrc").touch()  # zsh asks a new user for one
    terminal = Terminal(SHELLS[shell], place)
    assert "completion installed" in terminal.type("hvt-deploy --install-completion\n")
    terminal.close()
    terminal = Terminal(SHELLS[shell], place)
    try:
        terminal.type("hvt-deploy \t\x15")  # zsh loads the completion at the first Tab
        for typed, completed in (
            ("hvt-deploy quant\t", "hvt-deploy quantize"),
            (" --workspace here my\t", "my_model-224x224"),
            (" --precision int8-\t", "--precision int8-fp32"),
            ("\x15hvt-deploy export timm:visformer_t\t", "timm:visformer_tiny"),
            ("\x15hvt-deploy export scale\t", "export scale_hvt_ti_4"),
        ):
            shown = terminal.type(typed)
            assert completed.split()[-1] in shown.replace("\r", "").replace("\n", ""), shown
    finally:
        terminal.close()

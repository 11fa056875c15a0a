"""Read the code blocks of the project's Markdown files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^(\s*)```(\S*)\s*$")
_SHELL_WORDS = {"for", "do", "done", "then", "fi", "if"}


class Block(NamedTuple):
    """A fenced block: where it begins, its language ("" if none) and its lines, not indented."""

    path: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


class Command(NamedTuple):
    """A shell command of a block, as words."""

    place: str
    words: tuple[str, ...]


def list_documents() -> list[Path]:
    """Return the project's Markdown files."""
    folders = (".", "docs", "docs/benchmarks", "configs", "datasets")
    return sorted(path for folder in folders for path in (ROOT / folder).glob("*.md"))


def read_blocks(path: Path) -> list[Block]:
    """Return the fenced blocks of a document."""
    blocks, lines, start = [], [], None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if fence and start is None:
            start, lines = (number, len(fence[1]), fence[2]), []
        elif fence and start is not None:
            blocks.append(Block(path, start[0], start[2], "\n".join(lines)))
            start = None
        elif start is not None:
            lines.append(line[start[1] :] if not line[: start[1]].strip() else line)
    assert start is None, f"{path}: a code block is not closed"
    return blocks


def read_commands(path: Path) -> list[Command]:
    """Return the commands of a document's blocks without a language, or of a shell's.

    A block counts as shell if its first word is a command that this project documents; others show
    output or file trees.
    """
    starts = ("make", "pip", "python", "tools/", "tcm-d2", "torchrun", "srun", "export", "for", "#")
    commands = []
    for block in read_blocks(path):
        if block.language not in ("", "sh", "bash") or not block.text.startswith(starts):
            continue
        joined = re.sub(r"\\\n\s*", " ", block.text)
        for line in joined.splitlines():
            words = shlex.split(line, comments=True)
            while words and words[0] in _SHELL_WORDS:
                words = words[1:] if words[0] == "do" else []
            if words:
                commands.append(Command(block.place, tuple(words)))
    return commands


def tool_call(command: Command) -> tuple[str, list[str]] | None:
    """Return what is started, and its arguments: a file name of ``tools/``, or "tcm-d2"."""
    for index, word in enumerate(command.words):
        if word == "tcm-d2":
            words = list(command.words[index + 1 :])
            return word, words[: words.index(">")] if ">" in words else words
        if re.fullmatch(r"(\./)?tools/\w+\.py", word):
            return word.rpartition("/")[2], list(command.words[index + 1 :])
    return None

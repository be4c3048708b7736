"""What the site makes of the package itself when it is built: the page of the command line."""

from __future__ import annotations

import argparse

from mkdocs.structure.files import File

from hybridsolve import cli


def on_files(files, config):
    """Add the page to those in the folder."""
    files.append(File.generated(config, "command-line.md", content=command_line()))
    return files


def command_line() -> str:
    """The help of every command, as `--help` gives it on a wide terminal."""
    parser = cli._parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    lines = [
        "# Command line",
        "",
        "Progress and notes go to stderr. Exit status: 0; 2 for an error in what was asked, one",
    ]
    lines[-1] += (
        " sentence; 1 for a fault of hybridsolve; 130 after Ctrl-C and 143 after SIGTERM. For completion by the tab"
    )
    lines += [' key: `eval "$(register-python-argcomplete hybridsolve)"` in bash or zsh.']
    for name, command in commands.choices.items():
        command.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)
        lines += ["", f"## {name}", "", "```text", command.format_help().rstrip(), "```"]
    return "\n".join(lines) + "\n"

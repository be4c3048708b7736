"""What the site makes of the package itself when it is built: the command line's page, the examples, run, and each
model's equations in MathML and its response to every parameter."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

from hybridsolve import cli, models

sys.path.insert(0, str(Path(__file__).parent))
import notebooks
import responses

ROOT = Path(__file__).parent.parent
COMMANDS = """# Command line

Progress and notes go to stderr. Exit status: 0; 2 for an error in what was asked, one sentence; 1 for a fault of
hybridsolve; 130 after Ctrl-C and 143 after SIGTERM.

## Completion by the tab key

Commands, options and names (models, losses, recipes, styles) are completed by argcomplete. For one shell, or for
all by the same line in `~/.bashrc` or `~/.zshrc`:

```bash
eval "$(register-python-argcomplete hybridsolve)"
```

In zsh `autoload -U compinit && compinit` goes before it; in fish it is
`register-python-argcomplete --shell fish hybridsolve | source`.

## Figures in another style

`--style` takes a style of matplotlib or a file of settings, for every command that draws: `--style grayscale`,
`--style talk.mplstyle` with a line such as `font.size: 16`. Lines and marks differ without colours too. From Python:
`with hs.plot.in_style("grayscale"): ...`."""
WORD = re.compile(r"\\mathrm\{([^{}]*)\}('*)")
RESPONSE = """

## Response

A made-up year after one of warm-up, at a tenth of the parameter's range (dashed) and at nine tenths, all others in the
middle (grey).

"""
MATH = re.compile(r"```math\n(.*?)\n```", re.DOTALL)


def on_files(files, config):
    """Add the pages to those in the folder."""
    files.append(File.generated(config, "command-line.md", content=command_line()))
    for script in sorted((ROOT / "examples").glob("*.py")):
        text = script.read_text(encoding="utf-8")
        if not notebooks.cells(text):
            continue
        page, figures = notebooks.page(script, ROOT)
        made = {f"{script.stem}.md": page, script.name: text} | figures
        for name, content in made.items():
            files.append(File.generated(config, f"examples/{name}", content=content))
    for page in (ROOT / "docs" / "models").glob("*.md"):
        if page.stem in models.MODELS:
            drawn = notebooks.svg(responses.figure(models.get(page.stem)))
            files.append(File.generated(config, f"models/{page.stem}.svg", content=drawn))
    return files


def on_page_markdown(markdown, page, config, files):
    """Equations as MathML, which browsers draw without a script; and a model's figure behind them."""
    if not page.file.src_uri.startswith("models/") or "```math" not in markdown:
        return markdown
    model = Path(page.file.src_uri).stem
    figure = f"{RESPONSE}![Response to each parameter]({model}.svg)"
    return MATH.sub(lambda found: f'<div class="math">{in_mathml(found[1])}</div>{figure}', markdown)


def in_mathml(block: str) -> str:
    """The lines of an aligned block, each an equation that stands by itself."""
    lines = block.removeprefix("\\begin{aligned}\n").removesuffix("\n\\end{aligned}").split(" \\\\\n")
    return "".join(f"<div>{one_equation(line)}</div>" for line in lines)


def one_equation(line: str) -> str:
    """At the left, but as large as one that is displayed; a name is one word, its primes a part of it."""

    def word(found: re.Match) -> str:
        return rf"\text{{{found[1]}{chr(0x2032) * len(found[2])}}}".replace(r"\_", "_")

    line = WORD.sub(word, line.replace("&", "", 1))
    return convert(line, display="block").replace('display="block"', 'display="inline" displaystyle="true"')


def command_line() -> str:
    """The help of every command, as `--help` gives it on a wide terminal."""
    parser = cli._parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    lines = [COMMANDS]
    for name, command in commands.choices.items():
        command.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)
        lines += ["", f"## {name}", "", "```text", command.format_help().rstrip(), "```"]
    return "\n".join(lines) + "\n"

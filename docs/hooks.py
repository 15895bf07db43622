"""What mkdocs does to the pages beside its plugins: formulas, roles in docstrings, --help,
and the keys of configurations.

Formulas become MathML, which browsers show without a script: ``$x$`` within a line, and a
paragraph between ``$$`` and ``$$``. Markdown sees only their letters as numbers, so that it leaves
them alone. Docstrings write :class:`Name`; the site keeps the name.
"""

import re

import click
from latex2mathml.converter import convert

from citrus_lirpa.cli import COMMANDS, main
from citrus_lirpa.training.keys import Key, keys

_CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)
_BLOCK = re.compile(r"^\$\$\n(.+?)\n\$\$$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"\$([^$\n]+)\$")
_HIDDEN = re.compile(r"formula-(block|inline)-([0-9a-f]+)-end")
_ROLE = re.compile(r":(?:class|func|meth|mod):<code>~?\.?")


def on_page_markdown(markdown: str, **_) -> str:
    markdown = re.sub("^COMMANDS$", lambda m: _commands(), markdown, flags=re.MULTILINE)
    markdown = re.sub("^KEYS OF (\\w+)$", lambda m: _keys(m[1]), markdown, flags=re.MULTILINE)
    parts = _CODE.split(markdown)  # odd ones are code
    return "".join(part if i % 2 else _hide(part) for i, part in enumerate(parts))


def on_page_content(html: str, **_) -> str:
    html = _HIDDEN.sub(lambda m: _formula(bytes.fromhex(m[2]).decode(), m[1]), html)
    return _ROLE.sub("<code>", html)


def _formula(text: str, display: str) -> str:
    """The MathML; a long one within a line can be scrolled where the page is narrow."""
    made = convert(text, display=display)
    long = display == "inline" and len(text) > 40
    return f'<span class="long-formula">{made}</span>' if long else made


def _hide(text: str) -> str:
    for pattern, display in ((_BLOCK, "block"), (_INLINE, "inline")):
        text = pattern.sub(
            lambda m, display=display: f"formula-{display}-{_one_line(m[1]).encode().hex()}-end",
            text,
        )
    return text


def _one_line(formula: str) -> str:
    return " ".join(formula.split())


def _commands() -> str:
    """A section for each command, with its --help."""
    top = click.Context(main, info_name="citrus-lirpa")
    sections = []
    for name in COMMANDS:
        command = main.get_command(top, name)
        context = click.Context(command, top, name, terminal_width=78, max_content_width=78)
        sections.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(sections)


def _keys(table: str) -> str:
    """A section for each key of a table of configurations."""
    return "\n".join(_key(key) for key in keys() if key.name.startswith(f"{table}."))


def _key(key: Key) -> str:
    lines = [f"### {key.name}\n"]
    for use in key.uses:
        of = f"*{', '.join(use.of)}*: " if use.of else ""
        default = "required" if use.default == "required" else f"default `{use.default}`"
        lines += [f"{of}{use.meaning}\n", f"- {use.type}; {default}\n"]
    if key.allowed:
        lines.append(f"- one of {', '.join(f'`{name}`' for name in key.allowed)}")
    if any(key.set_by.values()):
        lines.append("\nSet to\n")
    for kind, values in key.set_by.items():
        lines += [f"- `{value}` by {kind} {'; '.join(names)}" for value, names in values.items()]
    return "\n".join([*lines, ""])

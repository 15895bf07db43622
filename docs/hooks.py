"""What mkdocs does to the pages beside its plugins: formulas, and roles in docstrings.

Formulas become MathML, which browsers show without a script: ``$x$`` within a line, and a
paragraph between ``$$`` and ``$$``. Docstrings write :class:`Name`; the site keeps the name.
"""

import re

from latex2mathml.converter import convert

_CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)
_BLOCK = re.compile(r"^\$\$\n(.+?)\n\$\$$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"\$([^$\n]+)\$")
_ROLE = re.compile(r":(?:class|func|meth|mod):<code>~?\.?")


def on_page_markdown(markdown: str, **_) -> str:
    parts = _CODE.split(markdown)  # odd ones are code
    return "".join(part if i % 2 else _with_formulas(part) for i, part in enumerate(parts))


def on_page_content(html: str, **_) -> str:
    return _ROLE.sub("<code>", html)


def _with_formulas(text: str) -> str:
    text = _BLOCK.sub(lambda m: "\n" + convert(m[1].replace("\n", " "), "block") + "\n", text)
    return _INLINE.sub(lambda m: convert(m[1].strip()), text)

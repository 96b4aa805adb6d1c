"""Markdown, as CommonMark and tables: the one way in which stackd reads it, for its guides and for what authors write."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.tree import SyntaxTreeNode

Element = str | dict[str, Any]
"""A text; or a ``tag`` of HTML with its ``children``, and a link's ``href``."""

TAGS: Final = {
    **{tag: tag for tag in ("p", "em", "strong", "ul", "ol", "li", "blockquote", "hr", "br", "a")},
    **{tag: tag for tag in ("table", "thead", "tbody", "tr", "th", "td")},
    **{f"h{level}": f"h{min(level + 2, 6)}" for level in range(1, 7)},
}
"""What becomes of a tag: the headings stand below those of the page."""

CODE: Final = {"code_inline": "code", "code_block": "pre", "fence": "pre"}
WEB: Final = re.compile(r"https?://\S+", re.IGNORECASE)


def parser() -> MarkdownIt:
    """A parser. HTML is a text like any other."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("table")


def elements(text: str) -> tuple[Element, ...]:
    """What a page shows of the text. Nothing in it can be more than these elements: a link leads to http or https, and an
    image is its description. It takes up to a tenth of a second, so not on the event loop.
    """
    if not text:
        return ()
    from markdown_it.tree import SyntaxTreeNode

    return tuple(_children(SyntaxTreeNode(parser().parse(text))))


def _children(node: SyntaxTreeNode) -> Iterator[Element]:
    for child in node.children:
        yield from filter(None, _elements(child))


def _elements(node: SyntaxTreeNode) -> Iterator[Element]:
    if node.type in CODE:
        yield {"tag": CODE[node.type], "children": [node.content]}
    elif node.type in ("text", "image", "softbreak"):
        yield node.content or ("\n" if node.type == "softbreak" else "")
    elif node.tag not in TAGS or (node.nester_tokens is not None and node.nester_tokens.opening.hidden):
        yield from _children(node)  # such as the paragraph of each item of a list without blank lines
    else:
        link = {"href": href} if WEB.fullmatch(href := str(node.attrs.get("href", ""))) else {}
        yield {"tag": TAGS[node.tag], "children": list(_children(node)), **link}

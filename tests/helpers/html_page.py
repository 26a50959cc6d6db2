"""Read a page of the report: its addresses, its text, and whether its tags nest."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "input"}


class HtmlPage(HTMLParser):
    """Addresses, text and the nesting of a page."""

    def __init__(self, html):
        super().__init__()
        self.addresses, self.open, self.crooked, self.said = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "srcset", "poster")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.crooked.append(tag)

    def handle_data(self, data):
        if "style" not in self.open[-1:] and "script" not in self.open[-1:]:
            self.said.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.said).split())

"""A run's report as Python's own parser reads it, and text that must not become a part of it."""

import html.parser

from ernie_m_jax.evaluation import report

VOID = {"meta", "link", "img", "br", "path", "rect", "input"}


class Page(html.parser.HTMLParser):
    """A page as Python's own parser reads it: elements, text, and each table's cells by its caption."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.tables, self.open = [], "", {}, []
        self.rows, self.caption = None, ""
        self.feed(text)
        assert self.open == [], self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows, self.caption = [], ""
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            assert self.caption not in self.tables, self.caption
            self.tables[self.caption] = self.rows

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if "caption" in self.open:
            self.caption += data
        elif {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def charts(self):
        return [attributes["aria-label"] for tag, attributes in self.elements if tag == "svg"]


def made(directory, *settings):
    return Page(report.write(directory, settings).read_text("utf-8"))


HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}&lt;"

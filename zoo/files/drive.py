"""Google Drive: the address that serves a file's bytes, and the page it shows first when a file is large.

A file's address is any that carries its id: https://drive.google.com/open?id=ID. Files shared before September 2021 may
need a resource key as well, which Drive takes as the parameter `resourcekey` and as a header.
"""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

HOSTS = frozenset({"drive.google.com", "docs.google.com", "drive.usercontent.google.com"})
ENDPOINT = "https://drive.usercontent.google.com/download"


def is_drive(url: str) -> bool:
    return urlsplit(url).netloc in HOSTS


def direct(url: str) -> tuple[str, dict[str, str]]:
    """The address that answers with the file's bytes, and the headers to send with the request."""
    parts = urlsplit(url)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    if "/d/" in parts.path:  # https://drive.google.com/file/d/ID/view
        query.setdefault("id", parts.path.split("/d/", 1)[1].split("/", 1)[0])
    if "id" not in query:
        raise ValueError(f"{url} names no file: a Drive address carries an id")
    ask = {"id": query["id"], "export": "download", "confirm": "t"}
    headers = {}
    if key := query.get("resourcekey"):
        ask["resourcekey"] = key
        headers["X-Goog-Drive-Resource-Keys"] = f"{query['id']}/{key}"
    return f"{ENDPOINT}?{urlencode(ask)}", headers


def confirmed(page: str, base: str) -> str:
    """The address behind the "can't scan this file for viruses" page. Raises ValueError with what another page says."""
    text = page.lower()
    if "quota exceeded" in text or "too many users have viewed or downloaded" in text:
        raise ValueError("Google Drive's quota for this file is used up; it usually opens again within 24 hours")
    form = _Form()
    form.feed(page)
    target = urljoin(base, form.action) if form.action else ""
    if not target or not is_drive(target):
        raise ValueError("Google Drive returned a page instead of the file: it is private, gone, or needs a resource key")
    return f"{target.split('?', 1)[0]}?{urlencode(form.fields)}"


class _Form(HTMLParser):
    """The action and the hidden fields of the page's download form."""

    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        if tag == "form" and values.get("id") == "download-form":
            self.action = values.get("action", "")
        elif tag == "input" and values.get("type") == "hidden" and values.get("name"):
            self.fields[values["name"]] = values.get("value", "")

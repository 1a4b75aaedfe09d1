"""What ci/check_site.py takes for a fault: `make docs` builds nothing that calls other hosts or lacks what it loads."""

from __future__ import annotations

import pytest
from check_site import main, problems

LOADED = [
    '<script src="https://cdn.example.org/a.js"></script>',
    '<script src="//cdn.example.org/a.js"></script>',
    '<link rel="stylesheet" href="https://fonts.example.org/css?family=Roboto">',
    '<link href="https://fonts.example.org" rel="preconnect" crossorigin>',
    '<img src="http://pictures.example.org/badge.svg">',
    '<p style="background: url(https://pictures.example.org/a.png)">',
    '<pre class="mermaid"><code>graph LR</code></pre>',
    '<script src="assets/missing.js"></script>',
    '<img src="../missing.png">',
]
KEPT = [
    '<a href="https://arxiv.org/abs/2203.12827">a link to follow</a>',
    '<link rel="canonical" href="https://docs.example.org/">',
    '<script src="assets/a.js?v=1"></script>',
    '<script src="assets/mermaid.js"></script><pre class="mermaid"><code>graph LR</code></pre>',
    '<img src="data:image/png;base64,AAAA">',
    "<p>mermaid, https://example.org</p>",
]


@pytest.mark.parametrize("element", LOADED)
def test_what_a_browser_would_fetch_or_miss_is_found(tmp_path, element):
    (tmp_path / "index.html").write_text(f"<html><body>{element}</body></html>")
    assert len(problems(tmp_path)) == 1
    assert main([str(tmp_path)]) == 1


@pytest.mark.parametrize("element", KEPT)
def test_what_stays_in_the_site_or_waits_for_a_click_is_not(tmp_path, element):
    (tmp_path / "assets").mkdir()
    for name in ("a.js", "mermaid.js"):
        (tmp_path / "assets" / name).touch()
    (tmp_path / "index.html").write_text(f"<html><body>{element}</body></html>")
    assert main([str(tmp_path)]) == 0


@pytest.mark.parametrize(
    "rule", ["@import url(https://a.example.org/b.css);", "p {background: url('//a.example.org/c')}"]
)
def test_style_sheets_are_read_too(tmp_path, rule):
    (tmp_path / "index.html").write_text("<p>")
    (tmp_path / "main.css").write_text(rule)
    assert len(problems(tmp_path)) == 1


def test_a_folder_without_a_site_is_no_success(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "make docs" in capsys.readouterr().err

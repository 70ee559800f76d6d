"""MkDocs hooks: the README is the home page, and links from docs to files of the repository stay inside the site.

On GitHub and in an editor a link such as ``../configs/swin_pos/README.md`` works as it is. The site gets a page for
each file that is linked: Markdown as it is, a notebook with its outputs, other text as highlighted source.
"""
from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any, Callable, Dict

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
# Pages of their own, beside docs/.
ENTRIES = ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'docs/notebooks/getting_started.ipynb')
LANGUAGES = {'.py': 'python', '.yml': 'yaml', '.sh': 'bash', '.json': 'json'}
FENCE = re.compile(r'(^ *```.*?^ *```)', re.S | re.M)
LINK = re.compile(r'(?<=\]\()([^)\s#]+)(?=[)#])')
# Sphinx's roles, which Markdown shows as they are.
ROLE = re.compile(r':(?:class|func|meth|mod|attr|data|obj|exc):<code>[~!]?')


def site_uri(path: str) -> str:
    """Return the page of a file, which is named relative to the repository."""
    if path == 'README.md':
        return 'index.md'
    if path.startswith('docs/'):
        return path[len('docs/'):] + ('.md' if path.endswith('.ipynb') else '')
    return f'repository/{path}' if path.endswith('.md') else f'repository/{path}.md'


def source_path(uri: str) -> str:
    """Return the file of a page: the inverse of :func:`site_uri`."""
    if uri == 'index.md':
        return 'README.md'
    path = uri[len('repository/'):] if uri.startswith('repository/') else f'docs/{uri}'
    return path if (ROOT / path).is_file() else path[:-len('.md')]


def linked_file(page: str, link: str) -> str | None:
    """Return the file, relative to the repository, that a page links to; None if it is no file of the repository."""
    if '://' in link or link.startswith(('mailto:', '/')):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    if (ROOT / path / 'README.md').is_file():
        path = posixpath.join(path, 'README.md')
    return None if path.startswith('..') or not (ROOT / path).is_file() else path


def outside_fences(function: Callable[[str], str], text: str) -> str:
    """Apply a function to the parts of a Markdown text that are not fenced code."""
    return ''.join(part if number % 2 else function(part) for number, part in enumerate(FENCE.split(text)))


def page_text(path: str) -> str:
    """Return a file as Markdown."""
    text = (ROOT / path).read_text(encoding='utf-8')
    if path.endswith('.md'):
        return text
    if path.endswith('.ipynb'):
        return notebook_text(json.loads(text))
    return f'# `{path}`\n\n`````{LANGUAGES.get(posixpath.splitext(path)[1], "text")}\n{text.rstrip()}\n`````\n'


def notebook_text(notebook: Dict[str, Any]) -> str:
    """Return the cells of a notebook as Markdown, each with the text and pictures that it gave."""
    parts = []
    for cell in notebook['cells']:
        source = ''.join(cell['source'])
        parts.append(source if cell['cell_type'] == 'markdown' else f'```python\n{source}\n```')
        for output in cell.get('outputs', ()):
            data = output.get('data', {'text/plain': output.get('text', ())})
            if 'image/jpeg' in data:
                parts.append(f'<img alt="" src="data:image/jpeg;base64,{"".join(data["image/jpeg"]).strip()}">')
            else:
                parts.append(f'```text\n{"".join(data["text/plain"]).rstrip()}\n```')
    return '\n\n'.join(parts) + '\n'


def on_files(files: Files, config: Any) -> Files:
    """Add the README, and a page for each file outside ``docs/`` that a page links to, directly or through another."""
    waiting = [*ENTRIES, *(source_path(file.src_uri) for file in files.documentation_pages())]
    seen: Dict[str, None] = {}
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen[path] = None
        if files.get_file_from_path(site_uri(path)) is None:
            files.append(File.generated(config, site_uri(path), content=page_text(path)))
        if path.endswith(('.md', '.ipynb')):
            links = (linked_file(path, link) for link in LINK.findall(''.join(FENCE.split(page_text(path))[::2])))
            waiting += [link for link in links if link and not link.startswith('docs/')]
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead to pages of the site."""
    uri, path = page.file.src_uri, source_path(page.file.src_uri)

    def target(match: re.Match[str]) -> str:
        linked = linked_file(path, match[0])
        return match[0] if linked is None else posixpath.relpath(site_uri(linked), posixpath.dirname(uri) or '.')

    return outside_fences(lambda part: LINK.sub(target, part), markdown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Show the names that docstrings mark with Sphinx's roles as code."""
    return ROLE.sub('<code>', html) if page.file.src_uri.startswith('api/') else html

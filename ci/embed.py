#!/usr/bin/env python3
"""Puts ci/deploy.py into templates/deploy.yml, between the marks of its here-document."""

import pathlib
import textwrap

root = pathlib.Path(__file__).resolve().parent.parent
template, mark = root / "templates/deploy.yml", "LOCKSTEP_DEPLOY_PY\n"
script = (root / "ci/deploy.py").read_text(encoding="utf-8")
# GitLab would fill in what it takes for an input, and a line that is the mark would end the document early.
if "$[[" in script or mark in script:
    raise SystemExit("ci/deploy.py must hold neither $[[ nor LOCKSTEP_DEPLOY_PY")
text = template.read_text(encoding="utf-8")
begin = text.index("\n", text.index("<<'LOCKSTEP_DEPLOY_PY'")) + 1
end = text.rindex(" " * 6 + mark)
template.write_text(text[:begin] + textwrap.indent(script, " " * 6) + text[end:], encoding="utf-8")

#!/usr/bin/env bash
# jinja2 3.1.6: compiling a template calls its filters on constants, also in branches that never run.
#
# Most would expect: from_string parses, and filters run when the template is rendered, once for each rendering that reaches them. So a filter may
# count, look at the clock, or be put under a limit of time around render().
# Behaviour: the optimizer computes constant expressions while it compiles. A filter of a constant runs once, before any
# render, its result is in the compiled code, and renderings do not call it again. A branch that is never taken is computed as well.
#
# Output seen (jinja2 3.1.6):
#   after from_string: ['hello']
#   after two renderings: ['hello']
#   a branch that is never taken: ['hello']
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check jinja2==3.1.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import jinja2

calls = []

def shout(text):
    calls.append(text)
    return text.upper()

environment = jinja2.Environment()
environment.filters["shout"] = shout
template = environment.from_string("{{ 'hello' | shout }}")
print("after from_string:", calls)
assert calls == ["hello"]
assert [template.render(), template.render()] == ["HELLO", "HELLO"]
print("after two renderings:", calls)
assert calls == ["hello"]
calls.clear()
environment.from_string("{% if flag %}{{ 'hello' | shout }}{% endif %}").render(flag=False)
print("a branch that is never taken:", calls)
assert calls == ["hello"]
PY

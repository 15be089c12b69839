"""`python -m tools.spectral`: the OpenAPI document, with keys and without, against Spectral's ruleset `oas`.

Spectral is a Node tool. Node comes as a wheel, Spectral from package-lock.json beside this file, both once into .venv.
Exit 1 when a rule is broken, a warning counts; 2 when Spectral cannot be installed.
"""

"""The benchmark: a server on one core, a load generator in C on the other, eight scenarios, a peer in the same run.

python -m bench all --server tocsin --server baseline

__main__.py   options, the table, the JSON file
scenarios.py  what is measured, with which sizes and targets
servers.py    how each server is started, as data
issuer.py     an outside OIDC issuer, for all tokens
generator.py  compiles and runs load/ (the load generator)
machine.py    where it ran
baseline/     what a competent person writes in an afternoon
"""

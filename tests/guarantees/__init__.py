"""The guarantees, proven on the real process from outside: logs are written, faults are injected, one checker judges.

server.py (the process and its faults) + recorder.py (clients that write down what they see) + traffic.py (everybody
at once) -> records.py (a Log) -> checker.py (breaches). mutants.py proves that the checks can fail.
"""

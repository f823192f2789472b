"""The claims, by what they speak of. checker.py has the table."""

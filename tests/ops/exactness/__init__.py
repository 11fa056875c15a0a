"""The operators against an oracle of their own: see tools/check_ops_exactness.py."""

"""Mapping files of the classifiers that the registry knows; `mapping.py` says how they are read."""

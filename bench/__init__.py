"""Measurements, as ratios within one run: these machines are shared and noisy. `python -m bench` prints all."""

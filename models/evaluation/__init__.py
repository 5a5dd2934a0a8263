"""How well a router does: measures, baselines, calibration, plots."""

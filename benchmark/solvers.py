"""Inverse-curvature products."""

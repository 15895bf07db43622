"""CROWN, α-CROWN and β-CROWN bounds of several inputs under one perturbation."""

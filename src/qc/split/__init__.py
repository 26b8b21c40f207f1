"""Groups of equal questions, the split, and the audit; what `split` runs."""

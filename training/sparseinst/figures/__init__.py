"""Figures of what a network sees and finds: instance activation maps, results, average maps (figures 4 to 6)."""

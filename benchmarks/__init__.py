"""Side-by-side timings of ours and of what one would run instead."""

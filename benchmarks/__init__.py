"""Side-by-side timings of ours and of what one would run instead."""

import stages  # noqa: F401 - puts this checkout's src first on the path

"""From a reference to a verified file: resolve it, download it, check its hash."""

"""Device, precision, threads and the process group."""

"""Slurm: a site's settings and a run's arguments become one readable batch script, which looks after itself."""

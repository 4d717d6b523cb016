"""The papers' claims, asked of small models with seeds: grids of runs, kept results, fits, verdicts, the page."""

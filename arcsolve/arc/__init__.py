"""The puzzle domain: grids, tasks, data sets, submissions and scores. Needs numpy and nothing else."""

"""Terminal pictures of grids, tasks and solutions: returns rich renderables, never prints."""

"""How fast replay, updates, acting, whole runs and cores are."""

"""Running jobs: real processes on an instance, watched so that nothing is lost when the watcher dies."""

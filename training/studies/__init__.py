"""Many trainings that answer one question: sweeps and studies."""

"""Where programs run. A device allocates, copies, loads a program of steps and launches it; nothing else."""

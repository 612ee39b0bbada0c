"""What netplane costs, measured side by side: no figure in the documentation comes from anywhere else."""

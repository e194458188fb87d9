"""What the commands of ../smmu_iopf.py show. One module for each thing that they look at."""

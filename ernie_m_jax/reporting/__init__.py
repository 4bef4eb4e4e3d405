"""What people see of a run, and the files of results."""

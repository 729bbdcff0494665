"""What is submitted to a cluster, one verb a file."""

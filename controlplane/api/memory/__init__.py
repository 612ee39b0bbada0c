"""What the API server keeps of the cluster: every object as of the newest revision, read and encoded once."""

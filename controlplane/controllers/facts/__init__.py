"""What several controllers, and the scheduler, read off an object the same way: pods, owners, taints, templates."""

"""What a client asks: who it is, what its request means, whether it may, and what its body says."""

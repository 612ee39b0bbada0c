"""What the kernel offers, in the shape the rest of netplane asks for it."""

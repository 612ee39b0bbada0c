"""Workers as processes: ``crew`` starts them and tells them what to serve; ``keeper`` sees to it that flows survive."""

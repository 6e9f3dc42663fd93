"""Images and labels: reading, checking, and making training batches of them."""

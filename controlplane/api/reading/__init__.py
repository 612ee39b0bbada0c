"""GET, LIST and WATCH: what is asked for, in which form it goes out, and who is told of a change."""

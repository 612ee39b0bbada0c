"""The ebpf data path: Services at the socket for what runs on this node, nftables for what comes from outside."""

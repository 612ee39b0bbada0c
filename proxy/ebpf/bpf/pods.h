/* What the programs at pods' links and netplane's processes share. As with `maps.h`, the directory that the maps are
 * pinned in is named after this file, and a test compares the structs with those in Python.
 *
 * A packet may take the short way only where nobody will miss it on the long one; so all doubt leads to the host's
 * stack: an address that is in no map, a link that has gone, a flow that is known to be translated, a full map. */
#pragma once
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include "address.h"

struct pod { /* a pod of this node, by its address */
    __u32 link;  /* the host's end of its veth */
    __u32 ready; /* 0: only what comes back to it is written down yet */
};

struct flow { /* the ends of what two pods say to each other, whoever speaks; `low` has the lower address (is_lower) */
    struct address low;
    struct address high;
    __be16 low_port;
    __be16 high_port;
    __u8 protocol; /* IPPROTO_TCP, IPPROTO_UDP */
    __u8 unused[3];
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 65536);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct address);
    __type(value, struct pod);
} pods SEC(".maps");

/* The links that packets may be handed to, each by its own number. The kernel itself takes an entry out when its link
 * goes (dev_map_notification), whoever is alive then: so an address that is found in `pods` still leads nowhere. */
struct {
    __uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
    __uint(max_entries, 65536);
    __type(key, __u32);
    __type(value, __u32);
} links SEC(".maps");

/* What came to a pod by the host's stack and was changed there, or is the stack's own → when it last did
 * (nanoseconds, monotonic). Its answers must go back the same way. So must whatever else has these ends: the stack
 * knows that they are taken, and gives it another port. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 262144);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct flow);
    __type(value, __u64);
} translated SEC(".maps");

/* How many flows found no room in `translated`, and how many of those are taken care of. Unequal: no short way. */
enum { MISSED = 0, ANSWERED = 1 };
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 2);
    __type(key, __u32);
    __type(value, __u64);
} overflow SEC(".maps");

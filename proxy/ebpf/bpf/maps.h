/* What the programs and netplane's processes share. `layout.py` has the same structs in Python; a test compares
 * the two by the object's BTF. The directory that the maps are pinned in is named after the headers' content, so a
 * process never writes a layout that the running programs do not read.
 *
 * The write order that readers rely on: a block's endpoints, then the slot that leads to it, then the old block
 * goes. A slot is one aligned 64-bit word, stored at once; a block never changes once a slot leads to it, and its
 * number is not used again. A reader that was overtaken finds the old block gone and reads the slot once more. */
#pragma once
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include "address.h"

struct frontend { /* the unspecified address of a family stands for each of `node_addresses` */
    struct address address;
    __be16 port;
    __u8 protocol; /* IPPROTO_TCP, IPPROTO_UDP */
    __u8 unused;
};

struct route { /* what a frontend leads to */
    __u32 slot;
    __u32 service;
    __u32 affinity; /* seconds a client stays with its endpoint; 0: not at all */
};

struct position {
    __u32 block;
    __u32 index;
};

struct endpoint { /* in a block: ordered by address, then port, as memory compares them */
    struct address address;
    __be16 port;
    __u8 local;
    __u8 terminating;
};

struct service { /* for tools: its name, ended by a zero */
    char name[160];
};

struct sticker { /* who stays with an endpoint */
    __u64 who;     /* the cookie of a network namespace, or of an unconnected socket */
    __u32 service;
    __u32 unused;
};

struct choice {
    struct endpoint endpoint;
    __u32 unused;
    __u64 seen; /* nanoseconds, monotonic */
};

struct origin_key { /* a socket and whom it really speaks to */
    __u64 socket;
    struct address address;
    __be16 port;
    __u8 protocol;
    __u8 unused;
    __u32 more;
};

struct origin { /* whom its program asked for */
    struct address address;
    __be16 port;
    __u16 unused;
    __u32 service;
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 65536);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct frontend);
    __type(value, struct route);
} frontends SEC(".maps");

/* Bits 0-31 the block, 32-47 how many endpoints it has. 0: none, and TCP is refused. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 65536);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, __u64);
} slots SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 262144);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct position);
    __type(value, struct endpoint);
} endpoints SEC(".maps");

/* The addresses at which NodePorts are served → the only network namespace (its cookie) that may, 0 for all. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct address);
    __type(value, __u64);
} node_addresses SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 65536);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __u32);
    __type(value, struct service);
} services SEC(".maps");

/* Service → connections (UDP: conversations) so far. It is also where each processor's turn-taking stands. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_HASH);
    __uint(max_entries, 65536);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __u32);
    __type(value, __u64);
} counts SEC(".maps");

/* Session affinity: network namespace and Service → the client's endpoint, for hours. Apart from what lives for a
 * lookup of a name, of which there are thousands a second. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 65536);
    __type(key, struct sticker);
    __type(value, struct choice);
} choices SEC(".maps");

/* The same of unconnected sockets: for as long as a conversation lasts. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 65536);
    __type(key, struct sticker);
    __type(value, struct choice);
} conversations SEC(".maps");

/* Of sockets that connected; an entry goes when its socket is closed, so that one is there as long as its stream. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 131072);
    __type(key, struct origin_key);
    __type(value, struct origin);
} origins SEC(".maps");

/* Of datagrams by unconnected sockets, which may speak to many: nobody says when these end. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 65536);
    __type(key, struct origin_key);
    __type(value, struct origin);
} said SEC(".maps");
